"""What was observed of a pipeline -> what its status says. Pure: no cluster, no clock, the same answer every time.

`observed` has the values that a status is made of; `pods`, `events` and `workloads` project live objects to them;
`summarise` makes the status of a DiffusionPipeline and `scaler_status` that of a DiffusionPipelineRoleScaler.
"""

from __future__ import annotations

from diffusion_operator.status.scaler import scaler_status
from diffusion_operator.status.summary import invalid, summarise

__all__ = ["invalid", "scaler_status", "summarise"]
