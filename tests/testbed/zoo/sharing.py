"""Several denoisings of one model in one hub, and how far apart two results are. For processes that have torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from diffusion_worker.model.batching import Company
from diffusion_worker.model.forwards import Forwards
from diffusion_worker.model.types import StepCancelled
from diffusion_worker.work.driver import TaskDriver
from diffusion_worker.work.hub import Hub, Member
from diffusion_worker.work.strand import Ask, Strand
from testbed.zoo.processes import Stay

MOST_FORWARDS: Final = 10_000


def denoise_together(
    model: Any, requests: Sequence[tuple[Any, Any, Stay]]
) -> tuple[list[Any], list[tuple[int, int]], dict[str, int]]:
    """What each request (an encoder's output, the request, its stay) becomes, None if it is cancelled; the steps in the
    order they were made, each with the request's place; and how many forwards were made for one call and for several.
    """
    forwards = Forwards()
    hub: Hub[Any] = Hub(forwards, max_tokens=1 << 20, max_requests=len(requests))
    steps: list[tuple[int, int]] = []
    members = [_member(model, place, *request, steps) for place, request in enumerate(requests)]
    with torch.no_grad():
        for now in range(MOST_FORWARDS):
            for member, (_, _, stay) in zip(members, requests, strict=True):
                if stay.joins == now:
                    hub.add(member)
                if stay.cancelled == now:
                    hub.end(member, StepCancelled())
                member.held = stay.held is not None and stay.held[0] <= now < stay.held[1]
            if hub.tick() is None and all(now >= _last(stay) for _, _, stay in requests):
                break
    for member, (_, _, stay) in zip(members, requests, strict=True):
        error = member.strand.error
        if error is not None and not (isinstance(error, StepCancelled) and stay.cancelled is not None):
            raise error
    return [member.strand.result for member in members], steps, {"alone": forwards.alone, "joined": forwards.joined}


def _member(
    model: Any, place: int, values: Any, parameters: Any, stay: Stay, steps: list[tuple[int, int]]
) -> Member[Any]:
    company = Company.NONE if stay.exact else Company.ANY

    def work(ask: Ask) -> Any:
        return model.denoise(values, parameters, TaskDriver(ask, lambda step, _: steps.append((place, step)), company))

    return Member(Strand(work), (place,), company, lambda _: None)


def _last(stay: Stay) -> int:
    """When the last thing is done to it."""
    return max(stay.joins, stay.cancelled or 0, *(stay.held or ()))


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
