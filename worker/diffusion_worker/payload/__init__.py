"""The bytes of a slot: what one stage hands to the next.

A payload is a JSON header (tree of values and table of tensors) followed by the tensors' raw bytes, each on a 256-byte
boundary. It is read on machines that did not write it, so nothing in it is unpickled or evaluated (I9), and every
malformed byte ends in `PayloadError`.
"""

from __future__ import annotations

from diffusion_worker.payload.errors import Limits, PayloadError
from diffusion_worker.payload.reader import read
from diffusion_worker.payload.writer import Plan, measure, write

__all__ = ["Limits", "PayloadError", "Plan", "measure", "read", "write"]
