"""What crosses from stage to stage, as bytes."""

from __future__ import annotations

from typing import Any


def bytes_of(values: Any) -> bytes:
    from diffusion_worker import payload

    plan = payload.measure(values)
    buffer = bytearray(plan.nbytes)
    payload.write(plan, memoryview(buffer))
    return bytes(buffer)
