"""A simulated worker, told directly: reports, parking, hand-backs."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import pytest

from diffusion_router.core import (
    CancelTask,
    Event,
    Execute,
    FailureKind,
    HeldTask,
    InputReceived,
    Parked,
    ParkReason,
    ParkTask,
    PeerHeartbeat,
    Progressed,
    Stage,
    StageDone,
    StageFailed,
)
from dpipe.simulate.fleet import Fleet, Group, Shape
from dpipe.simulate.held import Kept
from dpipe.simulate.jobs import Job
from dpipe.simulate.load import Request
from dpipe.simulate.peers import Worker

PICTURE = Shape("picture", 0.5, 10.0, 1.0, 20)


class Around:
    """A clock, and what the worker says."""

    def __init__(self, *, transfer: float = 0.0, park: float = 0.0) -> None:
        self.now = 0.0
        self.fleet = Fleet((Group(frozenset({Stage.DENOISE}), 1),), {"picture": PICTURE}, transfer, park)
        self.said: list[tuple[float, Event[Kept]]] = []
        self.left = False
        self._agenda: list[tuple[float, int, Callable[[Any, int], None], Any, int]] = []
        self._number = 0
        self.worker = Worker(self, self.fleet.groups[0], "denoiser-0", frozenset())
        self.worker.attached = True

    def later(self, seconds: float, do: Callable[[Any, int], None], what: Any, version: int) -> None:
        self._number += 1
        heapq.heappush(self._agenda, (self.now + seconds, self._number, do, what, version))

    def up(self, _: Worker, event: Event[Kept]) -> None:
        self.said.append((self.now, event))

    def keeps(self, _: Kept) -> bool:
        return True

    def incarnation(self) -> str:
        return "me"

    def gone(self, _: Worker) -> None:
        self.left = True

    def until(self, when: float) -> None:
        while self._agenda and self._agenda[0][0] <= when:
            self.now, _, do, what, version = heapq.heappop(self._agenda)
            do(what, version)
        self.now = when

    def give(self, name: str, *, step: int = 0, order: float = 0.0, copy: bool = False) -> None:
        job = Job(name, Request(0.0, "picture"), PICTURE, key="", target_factor=3.0)
        source = Kept("other", f"{name}.before", step)
        task = Execute("me", f"{name}.task", name, Stage.DENOISE, 1, source, 1e9, order=order, copy=copy)
        self.worker.obey(task, job)

    def of(self, kind: type) -> list[Any]:
        return [event for _, event in self.said if isinstance(event, kind)]


def test_it_pulls_begins_and_says_each_step_and_that_it_is_done() -> None:
    around = Around(transfer=0.25)
    around.give("a")
    around.until(30.0)
    assert [type(event) for _, event in around.said[:2]] == [InputReceived, Progressed]
    assert [event.step for event in around.of(Progressed)] == list(range(20))
    assert around.said[-1][0] == pytest.approx(10.25)
    (done,) = around.of(StageDone)
    assert (done.result.parked, done.result.compute_seconds) == (None, pytest.approx(10.0))


def test_it_says_no_more_than_twenty_steps_a_second() -> None:
    around = Around()
    fast = Shape("picture", 0.0, 1.0, 0.0, 100)
    around.worker.obey(
        Execute("me", "a.task", "a", Stage.DENOISE, 1, Kept("other", "b"), 1e9),
        Job("a", Request(0.0, "picture"), fast, key="", target_factor=3.0),
    )
    around.until(2.0)
    assert 19 <= len(around.of(Progressed)) <= 21
    assert len(around.of(StageDone)) == 1


def test_told_to_park_it_ends_after_the_next_step_with_a_checkpoint_of_it() -> None:
    around = Around(park=0.1)
    around.give("a")
    around.until(2.2)
    around.worker.obey(ParkTask("me", "a.task", ParkReason.GIVES_WAY), None)
    around.until(30.0)
    when, done = around.said[-1]
    assert isinstance(done, StageDone)
    assert (done.result.parked, done.result.report.step) == (Parked(5, 20), 5)
    assert when == pytest.approx(2.6)


def test_it_goes_on_from_a_checkpoint_and_makes_no_step_twice() -> None:
    around = Around()
    around.give("a", step=15)
    job = around.worker.tasks["a.task"].job
    around.until(30.0)
    assert around.said[-1][0] == pytest.approx(2.5)
    assert (job.reached[Stage.DENOISE - 1], job.again_steps) == (20.0, 0)


def test_a_task_that_is_parked_lets_the_next_one_begin() -> None:
    around = Around()
    around.give("a")
    around.give("b")
    around.until(1.0)
    around.worker.obey(ParkTask("me", "a.task", ParkReason.GIVES_WAY), None)
    around.until(30.0)
    assert [event.result.task_id for event in around.of(StageDone)] == ["a.task", "b.task"]
    assert around.said[-1][0] == pytest.approx(11.5)


def test_of_those_that_wait_the_lowest_order_goes_first() -> None:
    around = Around()
    for name, order in (("a", 0.0), ("b", 5.0), ("c", 1.0)):
        around.give(name, order=order)
    around.until(100.0)
    assert [event.result.task_id for event in around.of(StageDone)] == ["a.task", "c.task", "b.task"]


def test_asked_back_it_gives_what_waits_and_keeps_what_runs() -> None:
    around = Around()
    around.give("a")
    around.give("b")
    around.until(0.1)
    for name in ("a", "b"):
        around.worker.obey(CancelTask("me", f"{name}.task", only_if_waiting=True), None)
    around.until(30.0)
    (failed,) = around.of(StageFailed)
    assert (failed.task_id, failed.kind) == ("b.task", FailureKind.HANDED_BACK)
    assert len(around.of(StageDone)) == 1


def test_a_copy_computes_nothing_and_keeps_how_far_it_had_come() -> None:
    around = Around(transfer=0.5)
    around.give("a")
    around.give("c", step=7, copy=True)
    around.until(1.0)
    (done,) = around.of(StageDone)
    assert (done.result.task_id, done.result.parked) == ("c.task", Parked(7, 20))


def test_told_to_leave_it_hands_back_what_waits_and_goes_when_it_holds_nothing() -> None:
    around = Around()
    around.give("a")
    around.give("b")
    around.until(1.0)
    around.worker.drain()
    assert around.of(PeerHeartbeat)[-1].draining
    assert [event.task_id for event in around.of(StageFailed)] == ["b.task"]
    around.until(30.0)
    assert not around.left, "its output is still wanted"
    around.worker.outputs.clear()
    around.worker.obey(CancelTask("me", "x"), None)
    around.worker.drain()
    assert around.left


def test_when_it_attaches_again_it_says_what_it_holds() -> None:
    around = Around()
    around.give("a")
    around.give("b")
    around.until(0.1)
    held = around.worker.registration().tasks
    assert held[0] == HeldTask("a.task", "a", Stage.DENOISE, started=True, input_id="a.before")
    assert not held[1].started
