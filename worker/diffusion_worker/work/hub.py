"""Who computes next, and with whom: the strands of a worker, of which each waits for calls of networks.

`tick` makes one forward. The first strand in order leads: its first open call is made, and with it, as far as both want
company and there is room, every call of the same key that is open just then. Nobody is waited for. Strands whose calls
are all answered run on to their next question. Between two ticks anything may happen: strands come, are held, parked
or ended.

Pure but for the networks that it calls: no thread, no lock. It belongs to the compute thread, and says in `underway`
what this is at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from diffusion_worker.model.batching import Company
from diffusion_worker.model.calls import Call
from diffusion_worker.model.forwards import Forwards
from diffusion_worker.work.strand import Strand
from diffusion_worker.work.watch import FORWARD, Doing, Underway

R = TypeVar("R")


@dataclass(eq=False, slots=True)
class Member(Generic[R]):
    """One strand in the hub. `order`: least first."""

    strand: Strand[R]
    order: tuple[float, ...]
    company: Company
    ended: Callable[[Member[R]], None]
    held: bool = False
    answers: dict[int, Any] = field(default_factory=dict)
    """By the place of the call in the question."""
    task: str = ""
    shape: str = ""
    """Of what it makes."""

    def open(self) -> Iterator[tuple[int, Call]]:
        """Calls that are not answered yet."""
        return ((place, call) for place, call in enumerate(self.strand.calls) if place not in self.answers)


@dataclass(frozen=True, slots=True)
class Ticked:
    """A forward: of what, and how many requests shared it."""

    shape: str
    requests: int


class Hub(Generic[R]):
    """max_tokens, max_requests: of one forward that several requests share; a single call is made whatever its size."""

    def __init__(
        self, forwards: Forwards, *, max_tokens: int, max_requests: int, underway: Underway | None = None
    ) -> None:
        self.underway = underway or Underway()
        self._forwards = forwards
        self._max_tokens = max_tokens
        self._max_requests = max_requests
        self._members: list[Member[R]] = []

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: Member[R]) -> None:
        """Takes a strand on. It runs to its first question at once."""
        self._members.append(member)
        self._members.sort(key=lambda one: one.order)
        self._advance(member, member.strand.start, "denoising up to its first forward")

    def end(self, member: Member[R], error: BaseException) -> None:
        """Raises `error` in a strand that waits, at once; nothing happens to one that has ended."""
        if member in self._members:
            self._advance(member, lambda: member.strand.throw(error))

    @property
    def idle(self) -> bool:
        """Whether `tick` would do nothing."""
        return all(member.held for member in self._members)

    def tick(self) -> Ticked | None:
        """One forward, and what follows from it. None: there was nothing to do."""
        ready = [member for member in self._members if not member.held]
        if not ready:
            return None
        chosen = self._choose(ready)
        calls = [call for _, _, call in chosen]
        served = dict.fromkeys(member for member, _, _ in chosen)
        shape, samples = calls[0].shape, sum(call.batch for call in calls)
        tasks = tuple(member.task for member in served)
        self.underway.begin(Doing(FORWARD, f"{shape}, {samples} at once", tasks))
        run = self._forwards.run if ready[0].company is Company.ANY else self._forwards.run_own
        answers = run(calls)
        if measured := self.underway.measure():
            self._forwards.wait()
        self.underway.end(learn=measured and not any(isinstance(answer, Exception) for answer in answers))
        for (member, place, _), answer in zip(chosen, answers, strict=True):
            member.answers[place] = answer
        for member in served:
            self._settle(member)
        return Ticked(shape, len(served))

    def _choose(self, ready: Sequence[Member[R]]) -> list[tuple[Member[R], int, Call]]:
        lead = ready[0]
        place, first = next(lead.open())
        chosen = [(lead, place, first)]
        if lead.company is Company.NONE:
            return chosen
        most = self._forwards.most(first) if lead.company is Company.ANY else None
        tokens, requests = first.tokens, 1
        for member in ready:
            if member is not lead and not (lead.company is member.company is Company.ANY):
                continue
            joined = False
            for place, call in member.open():
                if call is first or call.key != first.key:
                    continue
                if most is not None and len(chosen) >= most:
                    return chosen
                # A request's own calls belong together whatever the bounds on company say, or its bits would depend on
                # these bounds.
                if member is not lead:
                    if tokens + call.tokens > self._max_tokens or (not joined and requests >= self._max_requests):
                        break
                    requests += not joined
                    joined = True
                chosen.append((member, place, call))
                tokens += call.tokens
        return chosen

    def _settle(self, member: Member[R]) -> None:
        failed = next((answer for answer in member.answers.values() if isinstance(answer, Exception)), None)
        if failed is not None:
            self._advance(member, lambda: member.strand.throw(failed))
        elif len(member.answers) == len(member.strand.calls):
            answers = [member.answers[place] for place in range(len(member.strand.calls))]
            self._advance(member, lambda: member.strand.answer(answers))

    def _advance(self, member: Member[R], run: Callable[[], None], what: str = "denoising after a forward") -> None:
        member.answers = {}
        self.underway.begin(Doing(what, member.shape, (member.task,)))
        run()
        self.underway.end(learn=member.strand.error is None)
        if not member.strand.calls:
            self._members.remove(member)
            member.ended(member)
