"""Several denoisings of one model in one hub, and how far apart two results are. For processes that have torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from diffusion_worker.model.batching import Company
from diffusion_worker.model.forwards import Forwards
from diffusion_worker.work.driver import TaskDriver
from diffusion_worker.work.hub import Hub, Member
from diffusion_worker.work.strand import Ask, Strand


def denoise_together(model: Any, requests: Sequence[tuple[Any, Any, bool]]) -> tuple[list[Any], dict[str, int]]:
    """What each request (an encoder's output, the request, whether it is exact) becomes; and how many forwards were
    made for one call and for several. Each begins one forward after the one before."""
    forwards = Forwards()
    hub: Hub[Any] = Hub(forwards, max_tokens=1 << 20, max_requests=len(requests))
    members = []
    with torch.no_grad():
        for place, (values, parameters, exact) in enumerate(requests):
            company = Company.NONE if exact else Company.ANY

            def work(ask: Ask, values: Any = values, parameters: Any = parameters, company: Company = company) -> Any:
                return model.denoise(values, parameters, TaskDriver(ask, lambda _step, _steps: None, company))

            members.append(Member(Strand(work), (place,), company, lambda _member: None))
            hub.add(members[-1])
            hub.tick()
        while hub.tick():
            pass
    for member in members:
        if member.strand.error is not None:
            raise member.strand.error
    return [member.strand.result for member in members], {"alone": forwards.alone, "joined": forwards.joined}


def distance(one: Any, other: Any) -> float:
    """The largest difference between floating-point tensors of two stages' outputs, as a share of the largest value of
    its tensor; infinite if they are not alike otherwise."""
    if isinstance(one, torch.Tensor):
        if not isinstance(other, torch.Tensor) or one.shape != other.shape or one.dtype != other.dtype:
            return float("inf")
        if not one.is_floating_point() or not one.numel():
            return 0.0 if torch.equal(one, other) else float("inf")
        largest = float(other.abs().max())
        return float((one.double() - other.double()).abs().max()) / largest if largest else float((one != 0).any())
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return float("inf")
        return max((distance(one[name], other[name]) for name in one), default=0.0)
    if isinstance(one, list | tuple):
        if not isinstance(other, list | tuple) or len(one) != len(other):
            return float("inf")
        return max((distance(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, torch.Generator):
        return 0.0 if torch.equal(one.get_state(), other.get_state()) else float("inf")
    return 0.0 if one == other else float("inf")
