"""Each check fails on a core with a mistake of its kind, and none on the core as it is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import pytest

from diffusion_router.core import (
    Action,
    Core,
    Deadline,
    Event,
    InputReceived,
    JobEnded,
    JobStatus,
    Policy,
    ReleaseSlot,
    Stage,
    StageDone,
    jobs,
    membership,
)
from diffusion_router.core.book import Book
from diffusion_router.core.peer import Loss, Peer
from diffusion_router.core.scheduler import Scheduler
from dpipe.simulate import run
from dpipe.simulate.errors import InvariantError
from dpipe.simulate.faults import Fault, Kind
from dpipe.simulate.fleet import Fleet, Group, Shape
from dpipe.simulate.load import Spread, poisson
from dpipe.simulate.policies import named
from dpipe.simulate.run import Simulation
from dpipe.simulate.scenario import Scenario
from dpipe.simulate.studies import DECODER, DENOISER, ENCODER

FLEET = Fleet(
    (Group(ENCODER, 1), Group(DENOISER, 2), Group(DECODER, 1)),
    {"one": Shape("one", 0.2, 4.0, 0.3, 8)},
    transfer=0.05,
)


def play(*faults: Fault, number: int = 60) -> None:
    load = poisson(0.45, number, {"one": 1}, Spread(scale=(0.7, 1.5)))

    def stated(_: random.Random) -> Iterator[Fault]:
        return iter(faults)

    policy = named("Fifo")
    scenario = Scenario("planted", FLEET, load, faults=stated if faults else None, latency=0.01 if faults else 0.0)
    Simulation(scenario, policy.make(), 1, passes=policy.passes).run()


def test_of_the_core_as_it_is_nothing_is_found() -> None:
    play()
    play(*KILLS, Fault(80.0, Kind.PARTITION, "denoiser-1", 40.0), Fault(150.0, Kind.DRAIN, "denoiser-0", 3.0))


Say = Callable[[Core, Event, list[Action]], Sequence[Action]]


def says(monkeypatch: pytest.MonkeyPatch, otherwise: Say) -> None:
    """Let the core say something else."""

    class Planted(Core):
        def handle(self, event: Event, now: float) -> list[Action]:
            return list(otherwise(self, event, super().handle(event, now)))

    monkeypatch.setattr(run, "Core", Planted)


def test_a_job_that_ends_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[Action] = []

    def twice(_: Core, __: Event, actions: list[Action]) -> Sequence[Action]:
        ended.extend(action for action in actions if isinstance(action, JobEnded))
        return [*actions, *ended[:1]]

    says(monkeypatch, twice)
    with pytest.raises(InvariantError, match=r"I1.*had ended before"):
        play()


def test_a_job_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, lambda _, __, actions: [each for each in actions if not isinstance(each, JobEnded)])
    with pytest.raises(InvariantError, match="never end"):
        play()


def test_a_job_that_is_completed_without_being_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def early(_: Core, event: Event, actions: list[Action]) -> Sequence[Action]:
        if isinstance(event, StageDone) and event.result.stage is Stage.DENOISE:
            return [*actions, JobEnded(event.result.job_id, JobStatus.COMPLETED)]
        return actions

    says(monkeypatch, early)
    with pytest.raises(InvariantError, match=r"I1.*before it is decoded"):
        play()


def test_a_slot_that_is_released_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def early(core: Core, event: Event, actions: list[Action]) -> Sequence[Action]:
        if isinstance(event, InputReceived):
            source = core.peers[event.incarnation].tasks[event.task_id].input
            assert source is not None
            return [*actions, ReleaseSlot(source.incarnation, source.task_id)]
        return actions

    says(monkeypatch, early)
    with pytest.raises(InvariantError, match=r"I3.*reads it"):
        play()


def test_a_slot_that_is_never_released(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(_: Core, __: Event, actions: list[Action]) -> Sequence[Action]:
        return [each for each in actions if not (isinstance(each, ReleaseSlot) and ".decode." in each.task_id)]

    says(monkeypatch, kept)
    with pytest.raises(InvariantError, match=r"I3.*never told to release"):
        play()


def test_a_credit_that_is_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    disown = Book.disown

    def kept(book: Book, peer: Peer, task_id: str) -> object:
        task = disown(book, peer, task_id)
        if task is not None and task.stage is Stage.DENOISE:
            peer.tasks[task_id] = task
        return task

    monkeypatch.setattr(Book, "disown", kept)
    with pytest.raises(InvariantError, match=r"I4.*credits are taken"):
        play()


def test_a_peer_that_is_given_more_than_it_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "_enter", _unbounded(Scheduler._enter))
    with pytest.raises(InvariantError, match=r"I4.*has 1 places"):
        play()


def _unbounded(enter: Callable[[Scheduler, Peer], None]) -> Callable[[Scheduler, Peer], None]:
    def entered(scheduler: Scheduler, peer: Peer) -> None:
        peer.prefetch = 3
        enter(scheduler, peer)

    return entered


KILLS = [Fault(3.0 + 20 * number, Kind.KILL, f"denoiser-{peer}", 5.0) for number in range(9) for peer in range(2)]


def test_a_poison_job_that_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "fail_as_poison", lambda *_: False)
    with pytest.raises(InvariantError, match=r"I11.*has killed 2 workers"):
        play(*[Fault(3.0 * number, Kind.KILL, f"denoiser-{peer}", 0.5) for number in range(1, 30) for peer in range(2)])


def test_a_silence_that_is_taken_for_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "fall_silent", lambda book, peer: membership.lose(book, peer, "silent", Loss.DIED))
    monkeypatch.setattr(
        "diffusion_router.core.machine.membership.fall_silent",
        lambda book, peer: membership.lose(book, peer, "silent", Loss.DIED),
    )
    with pytest.raises(InvariantError, match=r"I11.*blamed for 1 deaths, 0 have been"):
        play(*[Fault(10.0 + 50 * number, Kind.PARTITION, "denoiser-0", 40.0) for number in range(5)])


def test_a_job_that_is_failed_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One loss is enough to fail it."""
    monkeypatch.setattr("diffusion_router.core.tasks.lose", lambda book, _, task, __: _fail(book, task.job_id))
    with pytest.raises(InvariantError, match=r"I6.*fails with RETRIES_EXHAUSTED"):
        play(*KILLS)


def _fail(book: Book, job_id: str) -> None:
    from diffusion_router.core import FailureKind
    from diffusion_router.core.lifecycle import Move

    job = book.jobs.get(job_id)
    if job is not None and not job.status.ended:
        jobs.end(book, job, Move.FAILED, FailureKind.RETRIES_EXHAUSTED, "")


def test_an_order_that_lets_the_oldest_starve(monkeypatch: pytest.MonkeyPatch) -> None:
    class YoungestFirst(Core):
        def __init__(self, policy: Policy, *, epoch: str, now: float) -> None:
            super().__init__(policy, epoch=epoch, now=now)
            self.order = count(10**9, -1)

    monkeypatch.setattr(run, "Core", YoungestFirst)
    with pytest.raises(InvariantError, match=r"no starvation.*is late and was passed over"):
        play(number=200)


def test_a_peer_that_is_idle_while_a_job_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "_touch", lambda *_: None)
    with pytest.raises(InvariantError, match=r"work conserved.*are idle"):
        play()


def test_a_place_beside_others_that_stays_empty_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a batch does not pay, the core may let a job wait."""
    choose, sent = Scheduler._choose, []

    def alone(self: Scheduler, *job: object, joins: bool) -> Peer | None:
        peer = choose(self, *job, joins=joins)
        sent.append(peer is not None and bool(peer.tasks))
        return None if sent[-1] else peer

    monkeypatch.setattr(Scheduler, "_choose", alone)
    fleet = Fleet((Group(ENCODER, 1), Group(DENOISER, 1, capacity=2), Group(DECODER, 1)), FLEET.shapes)
    load = poisson(0.3, 60, {"one": 1}, Spread())
    outcome = Simulation(Scenario("alone", fleet, load), named("Fifo").make(), 1, passes=0).run()
    assert len(outcome.ends) == 60
    assert any(sent)


@pytest.mark.parametrize(("share", "starves"), [(4, False), (0, True)])
def test_a_share_of_the_late_that_is_not_kept(share: int, starves: bool) -> None:
    """Short jobs that are on time for ever, and long ones that are late."""
    shapes = {"short": Shape("short", 0.0, 1.0, 0.0, 10), "long": Shape("long", 0.0, 30.0, 0.0, 30)}
    fleet = Fleet((Group(ENCODER, 1, slots=65_536), Group(DENOISER, 2), Group(DECODER, 1)), shapes)
    load = poisson(2.2, 800, {"short": 0.9, "long": 0.1}, Spread())
    play_it = Simulation(
        Scenario("late", fleet, load), Policy(scheduling=Deadline(late_share=share)), 1, passes=named("Deadline").passes
    )
    if starves:
        with pytest.raises(InvariantError, match=r"no starvation.*is late and was passed over"):
            play_it.run()
    else:
        play_it.run()
