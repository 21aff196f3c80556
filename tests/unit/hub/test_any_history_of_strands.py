"""Strands come, go, fail, are held and ended in any order: none is lost, and none gets another's answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from diffusion_worker.model.batching import Company
from diffusion_worker.model.calls import Call
from diffusion_worker.model.forwards import Forwards
from diffusion_worker.work.hub import Hub, Member
from diffusion_worker.work.strand import Ask, Strand
from unit.hub.networks import Doubler, Mixer

POISON = 1000.0
MOST_IN_MEMORY = 5


class Stop(BaseException):
    pass


class Poisoned(Exception):
    pass


def spoil(x: torch.Tensor) -> BaseException | None:
    if x.shape[0] > MOST_IN_MEMORY:
        return torch.OutOfMemoryError("full")
    return Poisoned("poison") if (x >= POISON).any() else None


@dataclass
class Request:
    """One strand, and what must become of it."""

    member: Member[list[float]]
    steps: int
    parks_at: int | None
    poisoned_at: int | None
    seen: int = 0
    stopped: bool = False
    ended: int = 0


class Hubs(RuleBasedStateMachine):
    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.networks: list[torch.nn.Module] = [Doubler(spoil), Doubler(spoil, factor=3), Mixer()]
        self.hub: Hub[list[float]] = Hub(Forwards(), max_tokens=40, max_requests=4)
        self.all: list[Request] = []
        self.numbers = count(1)

    @rule(
        target=requests,
        network=st.integers(0, 2),
        steps=st.integers(0, 4),
        branches=st.integers(1, 3),
        length=st.sampled_from([2, 2, 2, 3]),
        batch=st.sampled_from([1, 1, 2]),
        company=st.sampled_from([Company.ANY, Company.ANY, *Company]),
        priority=st.integers(0, 2),
        parks_at=st.none() | st.integers(1, 4),
        poisoned_at=st.none() | st.integers(1, 4),
    )
    def comes(
        self,
        network: int,
        steps: int,
        branches: int,
        length: int,
        batch: int,
        company: Company,
        priority: int,
        parks_at: int | None,
        poisoned_at: int | None,
    ) -> Request:
        # So far from any other's that a mean of the two is no rounding (`forwards.TOLERANCE`).
        own = 512 * 0.5 ** next(self.numbers)
        # What may be one forward in company of one's own, the family says: only of networks for which it is right.
        module = self.networks[network if company is not Company.OWN else network % 2]
        branches = branches if company is not Company.OWN else min(branches, MOST_IN_MEMORY // batch)

        def work(ask: Ask) -> list[float]:
            for step in range(1, steps + 1):
                poison = POISON if step == request.poisoned_at and isinstance(module, Doubler) else 0.0
                calls = [
                    _call(module, torch.full((batch, length), own * (1 + branch / 4) + poison), float(step))
                    for branch in range(branches)
                ]
                for asked, answer in zip(calls, ask(calls), strict=True):
                    assert torch.equal(answer, _expected(asked)), "the answer is another's"
                request.seen = step
                if step == request.parks_at:
                    break
            return [own]

        def ended(member: Member[list[float]]) -> None:
            request.ended += 1

        request = Request(Member(Strand(work), (priority, len(self.all)), company, ended), steps, parks_at, poisoned_at)
        if not isinstance(module, Doubler):
            request.poisoned_at = None
        self.all.append(request)
        self.hub.add(request.member)
        return request

    @rule(times=st.integers(1, 5))
    def ticks(self, times: int) -> None:
        held = {id(request): request.seen for request in self.all if request.member.held and not request.ended}
        for _ in range(times):
            self.hub.tick()
        for request in self.all:
            assert held.get(id(request), request.seen) == request.seen, "who is held goes on"

    @rule(request=requests)
    def is_held(self, request: Request) -> None:
        request.member.held = True

    @rule(request=requests)
    def is_let_go(self, request: Request) -> None:
        request.member.held = False

    @rule(request=consumes(requests))
    def is_ended(self, request: Request) -> None:
        request.stopped = not request.ended
        self.hub.end(request.member, Stop())
        assert request.ended == 1

    @invariant()
    def nobody_is_lost(self) -> None:
        assert len(self.hub) == sum(not request.ended for request in self.all)
        for request in self.all:
            assert request.ended <= 1

    def teardown(self) -> None:
        for request in self.all:
            request.member.held = False
        for _ in range(10_000):
            if not self.hub.tick():
                break
        for request in self.all:
            assert request.ended == 1, "a strand never ended"
            strand = request.member.strand
            last = min(request.steps, request.parks_at or request.steps)
            if request.stopped:
                assert isinstance(strand.error, Stop)
            elif request.poisoned_at is not None and request.poisoned_at <= last:
                assert isinstance(strand.error, Poisoned)
                assert request.seen == request.poisoned_at - 1
            else:
                assert strand.error is None, strand.error
                assert request.seen == last


def _call(network: torch.nn.Module, x: torch.Tensor, t: float) -> Call:
    arguments: dict[str, Any] = {"x": x}
    if isinstance(network, Doubler):
        arguments["t"] = torch.tensor(t)
    return Call(network, arguments, "x")


def _expected(call: Call) -> torch.Tensor:
    plain: Callable[..., torch.Tensor] = type(call.network).forward
    network = Doubler(factor=call.network.factor) if isinstance(call.network, Doubler) else Mixer()
    return plain(network, **call.arguments)


TestHubs = Hubs.TestCase
TestHubs.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
