"""A fault happens to a simulated pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from diffusion_router.core import CancelRequested, FailureKind
from dpipe.simulate.errors import InputError
from dpipe.simulate.faults import Fault, Kind
from dpipe.simulate.peers import Worker

if TYPE_CHECKING:
    from dpipe.simulate.run import Simulation

_SLOW: Final = 4.0


def happens(world: Simulation, fault: Fault) -> None:
    """Nothing does to a worker that is not there just now."""
    if fault.kind is Kind.RESTART:
        world.restart()
        return
    worker = world.workers.get(fault.peer)
    if worker is None:
        raise InputError(f"{world.scenario.name}: peer {fault.peer!r} of a fault is none of {', '.join(world.workers)}")
    if not worker.alive:
        return
    match fault.kind:
        case Kind.KILL:
            world.checks.died(worker.incarnation)
            worker.die()
            world.cut(worker)
            world.later(fault.seconds, world.start, worker, worker.life)
        case Kind.DRAIN if not worker.draining:
            worker.back = fault.seconds
            worker.drain()
        case Kind.PARTITION:
            world.cut(worker)
            world.later(fault.seconds, world.attach, worker, worker.life)
        case Kind.SLOW:
            worker.set_pace(_SLOW)
            world.later(fault.seconds, _at_pace_again, worker, worker.life)
        case Kind.FAIL:
            worker.fail_one(FailureKind.UNSPECIFIED)
        case Kind.CANCEL if worker.running:
            world.tell_soon(CancelRequested(worker.running[0].task.job_id))


def _at_pace_again(worker: Worker, life: int) -> None:
    if worker.alive and worker.life == life:
        worker.set_pace(1.0)
