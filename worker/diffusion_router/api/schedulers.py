"""The scheduler that a request names: one of those that the resource lists, never a class or its options."""

from __future__ import annotations

from diffusion_router.api.fields import InvalidField
from diffusion_router.api.validation import Request
from diffusion_router.peers.registry import Registry

_REMEDY = "add it to spec.model.schedulers"


def check_scheduler(registry: Registry, generation: Request) -> None:
    """Raises InvalidField for one that no denoiser offers. While there is none, each may yet be offered."""
    name, offered = generation.parameters.scheduler, registry.schedulers()
    if not name or offered is None or name in offered:
        return
    if not offered:
        text = f"Scheduler {name!r}: this pipeline has the model's own alone; leave it out, or {_REMEDY}"
    else:
        there = ", ".join(sorted(offered))
        text = f"Scheduler {name!r} is not offered here; there are {there}. Name one of these, or {_REMEDY}"
    raise InvalidField("scheduler", text)
