"""The core at the size of a large cluster, and over a long life."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from types import FrameType

import pytest

from diffusion_router.core import (
    CancelRequested,
    Core,
    Event,
    Execute,
    FailureKind,
    InputReceived,
    JobEnded,
    JobRecorded,
    JobSubmitted,
    PeerDisconnected,
    PeerDrained,
    PeerHeartbeat,
    PeerRegistered,
    Policy,
    Progressed,
    Stage,
    StageDone,
    StageFailed,
    StageResult,
    Tick,
)


class Fleet:
    """Peers that do at once whatever they are told, one task after the other."""

    def __init__(self, policy: Policy) -> None:
        self.core = Core(policy, epoch="e", now=0.0)
        self.now = 0.0
        self.todo: deque[Execute] = deque()
        self.ended = 0
        self.events = 0

    def tell(self, event: Event) -> None:
        self.now += 1e-4
        self.events += 1
        for action in self.core.handle(event, self.now):
            if isinstance(action, Execute):
                self.todo.append(action)
            elif isinstance(action, JobEnded):
                self.ended += 1
                self.tell(JobRecorded(action.job_id))

    def step(self) -> None:
        task = self.todo.popleft()
        if task.input is not None:
            self.tell(InputReceived(task.incarnation, task.task_id))
        self.tell(Progressed(task.incarnation, task.task_id, 0, 1))
        self.tell(StageDone(task.incarnation, StageResult(task.task_id, task.job_id, task.stage, "r", 1.0)))


@pytest.mark.parametrize("colocated", [False, True])
def test_a_thousand_peers_and_five_thousand_jobs_run_to_the_end(colocated: bool) -> None:
    fleet = Fleet(Policy(lease=1e6))
    for number in range(1000):
        stages = frozenset(Stage) if colocated else frozenset({(Stage.ENCODE, Stage.DENOISE, Stage.DECODE)[number % 3]})
        fleet.tell(PeerRegistered(f"p{number}", stages, pod_name=f"p{number}"))
    for number in range(5000):
        fleet.tell(JobSubmitted(f"j{number}", 1e9, "shape"))
    while fleet.todo:
        fleet.step()
        if fleet.events % 7 == 0:
            fleet.tell(PeerHeartbeat(f"p{fleet.events % 1000}"))
    assert fleet.ended == 5000
    assert not fleet.core.jobs
    assert all(not peer.tasks and not peer.outputs for peer in fleet.core.peers.values())


def test_a_long_life_leaves_nothing_behind() -> None:
    """What 3,000 jobs went through is no larger than a few hundred would leave: queues of times are swept."""
    fleet = Fleet(Policy(lease=1e6))
    for number in range(3):
        fleet.tell(PeerRegistered(f"p{number}", frozenset(Stage), pod_name=f"p{number}"))
    sizes = []
    for life in range(10):
        for number in range(300):
            fleet.tell(JobSubmitted(f"j{life}.{number}", 1e9, f"shape {number % 3}"))
            while fleet.todo:
                fleet.step()
        fleet.tell(Tick())
        sizes.append(_size(fleet.core))
    assert max(sizes) < 4 * 1024, sizes


def test_peers_that_come_and_go_leave_nothing_behind() -> None:
    fleet = Fleet(Policy(lease=1e6, grace=0.0, max_fenced=4))
    fleet.tell(PeerRegistered("encoder", frozenset({Stage.ENCODE})))
    # One that may come back, so that the role is never gone.
    fleet.tell(PeerRegistered("denoiser", frozenset({Stage.DENOISE})))
    fleet.tell(PeerDisconnected("denoiser"))
    sizes = []
    for life in range(40):
        peer, jobs = f"p{life}", [f"j{life}.{number}" for number in range(4)]
        fleet.tell(JobSubmitted(jobs[0], 1e9))
        fleet.tell(PeerRegistered(peer, frozenset({Stage.ENCODE, Stage.DENOISE})))
        for job in jobs[1:]:
            fleet.tell(JobSubmitted(job, 1e9))
        # The first job, encoded elsewhere, takes the place that the second one's task has left.
        for task in (fleet.todo[0], fleet.todo[1]):
            fleet.tell(Progressed(task.incarnation, task.task_id, 0, 1))
            done = StageResult(task.task_id, task.job_id, task.stage, "r", 1.0)
            fleet.tell(StageDone(task.incarnation, done))
        waiting = fleet.core.jobs[jobs[1]]
        assert waiting.input.incarnation == peer
        assert waiting.task is None
        fleet.tell(PeerDrained(peer))
        for job in jobs:
            fleet.tell(CancelRequested(job))
        for task in fleet.todo:
            fleet.tell(StageFailed(task.incarnation, task.task_id, FailureKind.CANCELLED))
        fleet.todo.clear()
        sizes.append(_size(fleet.core))
    # But for the times of four deadlines and a lease, and of two tasks that were told to stop, which pass or are swept.
    assert sizes[-1] - sizes[9] <= 30 * (5 * 3 + 2 * 4), sizes


def test_an_event_costs_the_same_whatever_the_fleet_and_the_queue() -> None:
    """In lines of code that are run, which no other load on the machine changes."""
    costs = {
        (denoisers, queue): _lines_an_event(denoisers, queue) for denoisers, queue in ((5, 0), (5, 2000), (60, 2000))
    }
    assert max(costs.values()) < 1.25 * min(costs.values()), costs


def _lines_an_event(denoisers: int, queue: int) -> float:
    fleet = Fleet(Policy(lease=1e6))
    # More encoders than denoisers: jobs wait before both stages, and the encoders' pools are full.
    for stage, peers in ((Stage.ENCODE, 2 * denoisers), (Stage.DENOISE, denoisers), (Stage.DECODE, 2 * denoisers)):
        for number in range(peers):
            fleet.tell(PeerRegistered(f"{stage.name}{number}", frozenset({stage}), slots=8))
    for number in range(2 * denoisers + queue):
        fleet.tell(JobSubmitted(f"j{number}", 1e9, "shape"))
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., object]:
        nonlocal lines
        lines += event == "line" and frame.f_globals["__name__"].startswith("diffusion_router")
        return trace

    _keep_busy(fleet, fleet.events + 40 * denoisers)
    before, traced = fleet.events, sys.gettrace()
    sys.settrace(trace)
    try:
        _keep_busy(fleet, before + 1000)
    finally:
        sys.settrace(traced)
    return lines / (fleet.events - before)


def _keep_busy(fleet: Fleet, events: int) -> None:
    """For each job that ends another comes, so that the queue keeps its length."""
    submitted = fleet.ended
    while fleet.events < events:
        fleet.step()
        for number in range(submitted, fleet.ended):
            fleet.tell(JobSubmitted(f"again{number}", 1e9, "shape"))
        submitted = fleet.ended


def _size(core: Core) -> int:
    """Entries in all containers that hang on the core."""
    seen: set[int] = set()
    todo: list[object] = [core]
    entries = 0
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, str | int | float | frozenset | type | None):
            continue
        seen.add(id(thing))
        if isinstance(thing, dict):
            todo += thing.values()
            entries += len(thing)
        elif isinstance(thing, list | set | deque | tuple):
            todo += thing
            entries += len(thing)
        elif type(thing).__module__.startswith("diffusion_router"):
            names = [name for cls in type(thing).__mro__ for name in getattr(cls, "__slots__", ())]
            todo += [getattr(thing, name) for name in {*names, *getattr(thing, "__dict__", {})} if hasattr(thing, name)]
    return entries
