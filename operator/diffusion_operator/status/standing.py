"""Where a resource stands, read from its status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusion_operator.status import reasons
from diffusion_operator.status.finding import conditions_by_type


def is_settled(resource: Mapping[str, Any]) -> bool:
    """Everything was applied for its spec as it is."""
    found = conditions_by_type(resource.get("status")).get(reasons.RECONCILED)
    generation = resource["metadata"]["generation"]
    return found is not None and found["status"] == "True" and found.get("observedGeneration") == generation


def is_at_rest(status: Mapping[str, Any]) -> bool:
    """Ready, or not because its owner wants no pods."""
    ready = conditions_by_type(status).get(reasons.READY)
    if ready is None:
        return False
    return ready["status"] == "True" or ready["reason"] in (reasons.SUSPENDED, reasons.ROLE_AT_ZERO)
