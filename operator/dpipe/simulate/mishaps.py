"""A fault happens to a simulated pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from diffusion_router.core import CancelRequested, Event, FailureKind
from dpipe.simulate.checks import Checks
from dpipe.simulate.errors import InputError
from dpipe.simulate.faults import Fault, Kind
from dpipe.simulate.held import Kept
from dpipe.simulate.peers import Worker
from dpipe.simulate.scenario import Scenario

_SLOW: Final = 4.0


class Place(Protocol):
    """Where it happens."""

    scenario: Scenario
    checks: Checks

    @property
    def workers(self) -> Mapping[str, Worker]: ...

    def later(self, seconds: float, do: Callable[[Any, int], None], what: Any, version: int) -> None: ...

    def tell_soon(self, event: Event[Kept]) -> None: ...

    def cut(self, worker: Worker) -> None: ...

    def attach(self, worker: Worker, life: int) -> None: ...

    def start(self, worker: Worker, life: int) -> None: ...

    def restart(self) -> None: ...


def happens(place: Place, fault: Fault) -> None:
    """Nothing does to a worker that is not there just now."""
    if fault.kind is Kind.RESTART:
        place.restart()
        return
    worker = place.workers.get(fault.peer)
    if worker is None:
        raise InputError(f"{place.scenario.name}: peer {fault.peer!r} of a fault is none of {', '.join(place.workers)}")
    if not worker.alive:
        return
    match fault.kind:
        case Kind.KILL:
            place.checks.died(worker.incarnation)
            worker.die()
            place.cut(worker)
            place.later(fault.seconds, place.start, worker, worker.life)
        case Kind.DRAIN if not worker.draining:
            worker.back = fault.seconds
            worker.drain()
        case Kind.PARTITION:
            place.cut(worker)
            place.later(fault.seconds, place.attach, worker, worker.life)
        case Kind.SLOW:
            worker.set_pace(_SLOW)
            place.later(fault.seconds, _at_pace_again, worker, worker.life)
        case Kind.FAIL:
            worker.fail_one(FailureKind.UNSPECIFIED)
        case Kind.CANCEL if worker.running:
            place.tell_soon(CancelRequested(worker.running[0].task.job_id))


def _at_pace_again(worker: Worker, life: int) -> None:
    if worker.alive and worker.life == life:
        worker.set_pace(1.0)
