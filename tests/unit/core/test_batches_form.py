"""Where denoisers share forwards among jobs: who is begun beside whom, and what is known of how long that takes."""

from __future__ import annotations

import pytest

from diffusion_router.core import (
    Core,
    Deadline,
    Execute,
    ForwardTime,
    InputReceived,
    JobSubmitted,
    ParkReason,
    ParkTask,
    PeerHeartbeat,
    PeerRegistered,
    Policy,
    Progressed,
    Stage,
    StageDone,
    StageResult,
)
from diffusion_router.core.batches import Batches
from unit.core.workers import STEPS, Worker
from unit.core.world import World

ENCODE, DENOISE, DECODE = Stage
FORWARD = "UNet 4x8x8"


class Bed:
    """Denoisers that begin what they are sent, and make no step."""

    def __init__(
        self,
        denoisers: int = 2,
        capacity: int = 4,
        policy: Policy | None = None,
        *,
        resumable: bool = False,
        seconds: float = 100.0,
    ) -> None:
        """seconds: that a denoising takes, as far as is known."""
        self.world = World() if policy is None else World(policy)
        self.world.core.estimates.learn(DENOISE, "", seconds)
        self.encoder = self.world.spawn(ENCODE, capacity=64, slots=64)
        settings = {"capacity": capacity, "slots": 64, "resumable": resumable}
        self.denoisers = [self.world.spawn(DENOISE, **settings) for _ in range(denoisers)]

    def ask(self, *batches: str) -> list[str]:
        jobs = [self.world.submit(batch=batch) for batch in batches]
        self.world.deliver_all()
        for _ in range(8 * len(batches)):
            if not self.encoder.tasks:
                break
            self.world.work(self.encoder)
            self.world.deliver_all()
        self.begin()
        return jobs

    def begin(self) -> None:
        for denoiser in self.denoisers:
            for index in range(len(denoiser.tasks)):
                for _ in range(3):
                    if not list(denoiser.tasks.values())[index].step:
                        self.world.work(denoiser, index)
        self.world.deliver_all()

    def finish(self, denoiser: Worker) -> None:
        """All that it denoises."""
        until = set(denoiser.tasks)
        for _ in range(100):
            if not until & denoiser.tasks.keys():
                break
            self.world.work(denoiser)
            self.world.deliver_all()
        self.begin()

    def measure(self, *, batch: str, together: dict[int, float]) -> None:
        denoiser = self.denoisers[0]
        times = tuple(ForwardTime(f"{FORWARD} of {batch}", number, seconds) for number, seconds in together.items())
        self.world.core.batches.makes(denoiser.generation, batch, f"{FORWARD} of {batch}")
        self.world.tell(PeerHeartbeat(denoiser.incarnation, forwards=times))

    @property
    def shares(self) -> list[list[str]]:
        """Batches of what each denoiser has."""
        batches = {job_id: job.batch for job_id, job in self.world.store.items()}
        return [sorted(batches[held.execute.job_id] for held in denoiser.tasks.values()) for denoiser in self.denoisers]


def test_an_idle_denoiser_comes_before_company() -> None:
    bed = Bed()
    bed.ask("a", "a")
    assert bed.shares == [["a"], ["a"]]


def test_a_job_joins_those_of_its_batch() -> None:
    bed = Bed()
    bed.ask("a", "b", "b", "b", "a")
    assert bed.shares == [["a", "a"], ["b", "b", "b"]]


def test_who_shares_no_forward_with_what_runs_waits_for_an_idle_denoiser_and_holds_nobody_else_back() -> None:
    bed = Bed()
    bed.ask("a", "b", "c", "a", "b")
    assert bed.shares == [["a", "a"], ["b", "b"]]
    bed.finish(bed.denoisers[1])
    assert bed.shares == [["a", "a"], ["c"]]


def test_what_shares_nothing_is_sent_once_all_that_is_computed_there_is_about_to_end() -> None:
    bed = Bed(denoisers=1)
    bed.ask("a", "b", "c")
    assert bed.shares == [["a"]]
    (held,) = bed.denoisers[0].tasks.values()
    while held.step < STEPS - 1:
        bed.world.work(bed.denoisers[0])
        bed.world.deliver_all()
    assert bed.shares == [["a", "b"]]


def test_a_job_that_wants_no_company_has_a_denoiser_to_itself() -> None:
    bed = Bed()
    bed.ask("", "a", "", "a")
    assert bed.shares == [[""], ["a", "a"]]


def test_a_job_that_may_have_killed_a_worker_has_one_to_itself() -> None:
    bed = Bed(denoisers=3)
    (first,) = bed.ask("a")
    bed.world.kill(bed.denoisers.pop(0))
    bed.world.advance(bed.world.policy.lease * 2)
    bed.ask("a", "a")
    alone = next(
        denoiser for denoiser in bed.denoisers if any(h.execute.job_id == first for h in denoiser.tasks.values())
    )
    assert len(alone.tasks) == 1
    assert sorted(map(len, bed.shares)) == [1, 2]


def test_nobody_joins_where_fewer_steps_a_second_would_be_made() -> None:
    bed = Bed(denoisers=1)
    bed.measure(batch="a", together={1: 1.0, 2: 2.2})
    bed.ask("a", "a")
    assert bed.shares == [["a"]]


def test_nobody_joins_where_as_many_steps_a_second_would_be_made() -> None:
    bed = Bed(denoisers=1)
    bed.measure(batch="a", together={1: 1.0, 2: 1.5, 3: 2.2})
    bed.ask("a", "a", "a")
    assert bed.shares == [["a", "a"]]


def test_what_was_never_measured_is_tried_and_no_more_once_it_is_known_not_to_pay() -> None:
    bed = Bed(denoisers=1)
    bed.measure(batch="a", together={1: 1.0})
    bed.ask("a", "a")
    assert bed.shares == [["a", "a"]]
    bed.measure(batch="a", together={1: 1.0, 2: 2.0})
    bed.finish(bed.denoisers[0])
    bed.ask("a", "a")
    assert bed.shares == [["a"]]


def test_a_job_that_waits_joins_once_it_is_known_to_pay() -> None:
    bed = Bed(denoisers=1)
    bed.measure(batch="a", together={1: 1.0, 2: 2.2})
    bed.ask("a", "a")
    for _ in range(20):
        bed.measure(batch="a", together={2: 1.2})
    bed.world.deliver_all()
    assert bed.shares == [["a", "a"]]


def test_of_denoisers_that_could_take_it_that_where_all_steps_become_the_least_slower_does() -> None:
    bed = Bed(denoisers=2, capacity=8)
    bed.ask("a", "a", "a", "a", "a")
    assert sorted(map(len, bed.shares)) == [2, 3]
    # A fourth is as good as free, a third makes all slower.
    bed.measure(batch="a", together={1: 1.0, 2: 1.5, 3: 2.0, 4: 2.05})
    bed.ask("a")
    assert sorted(map(len, bed.shares)) == [2, 4]


def test_others_overtake_one_that_waits_for_an_idle_denoiser_only_as_long_as_it_would_take_itself() -> None:
    bed = Bed(denoisers=1, seconds=5.0)
    bed.ask("a", "b", "a")
    assert bed.shares == [["a", "a"]]
    bed.world.advance(6.0)
    bed.ask("a")
    assert bed.shares == [["a", "a"]]
    bed.finish(bed.denoisers[0])
    assert bed.shares == [["b"]]


def test_once_the_one_that_waited_too_long_is_gone_others_join_again() -> None:
    bed = Bed(denoisers=1, seconds=5.0)
    _, waits = bed.ask("a", "b")
    bed.world.advance(6.0)
    bed.ask("a")
    assert bed.shares == [["a"]]
    bed.world.cancel(waits)
    bed.world.deliver_all()
    assert bed.shares == [["a", "a"]]


def test_who_is_late_has_its_share_of_the_starts_of_other_batches_too() -> None:
    bed = Bed(denoisers=1, capacity=1, policy=Policy(scheduling=Deadline(late_share=2)))
    # One that shares forwards: each batch waits in a lane of its own.
    crowd = bed.world.spawn(DENOISE, capacity=4, slots=64)
    bed.ask("x", "y")
    late = bed.world.submit(batch="a", target=0.5)
    bed.ask(*"bcdefgh")
    begun = []
    for _ in range(4):
        bed.finish(bed.denoisers[0])
        begun += [held.execute.job_id for held in bed.denoisers[0].tasks.values()]
    assert crowd.tasks
    assert late in begun[:3]


def test_what_encoded_for_many_holds_none_of_them_back() -> None:
    world = World()
    workers = [world.spawn(slots=32), world.spawn(slots=32)]
    for _ in range(8):
        world.submit(conditioning="x")
    world.run()
    world.check_at_rest()
    denoised = [sum(count for (_, stage), count in worker.computed.items() if stage is DENOISE) for worker in workers]
    assert sum(worker.computed.get((job, ENCODE), 0) for worker in workers for job in world.store) == 1
    assert min(denoised) >= 3


def test_what_one_peer_encodes_and_denoises_is_pulled_by_nobody() -> None:
    world = World()
    for _ in range(2):
        world.spawn(slots=32)
    for number in range(6):
        world.submit(conditioning=str(number))
        world.run()
    world.check_at_rest()
    moved = [
        action for action in world.said(Execute) if action.input and action.input.incarnation != action.incarnation
    ]
    assert not moved


def test_a_denoising_moves_to_a_denoiser_that_has_come_to_have_none() -> None:
    bed = Bed(denoisers=1, policy=Policy(scheduling=Deadline()), resumable=True)
    bed.measure(batch="a", together={1: 1.0, 2: 1.8})
    bed.ask("a", "a")
    assert bed.shares == [["a", "a"]]
    bed.denoisers.append(bed.world.spawn(DENOISE, capacity=4, slots=64, resumable=True))
    bed.world.run(rounds=2, seconds=0.0)
    assert bed.shares == [["a"], ["a"]]
    assert [park.reason for park in bed.world.said(ParkTask)] == [ParkReason.MOVES]
    bed.world.spawn(DECODE)
    bed.world.run()
    bed.world.check_at_rest()
    assert max(bed.world.steps.values()) == 1, "nothing is computed twice"


def test_nothing_is_moved_for_a_gain_that_is_less_than_the_trouble() -> None:
    bed = Bed(denoisers=1, policy=Policy(scheduling=Deadline()), resumable=True)
    bed.measure(batch="a", together={1: 1.0, 2: 1.02})
    bed.ask("a", "a")
    bed.denoisers.append(bed.world.spawn(DENOISE, capacity=4, slots=64, resumable=True))
    bed.world.deliver_all()
    assert bed.shares == [["a", "a"], []]


# ------------------------------------------------------------ how long it takes


def denoise(core: Core, task: Execute, begun: float) -> None:
    core.handle(InputReceived(task.incarnation, task.task_id), begun)
    core.handle(Progressed(task.incarnation, task.task_id, 0, 10), begun)


def test_what_is_learnt_is_what_a_denoising_takes_alone() -> None:
    core: Core = Core(Policy(scheduling=Deadline()), epoch="e", now=0.0)
    core.handle(PeerRegistered("e", frozenset({ENCODE}), capacity=8), 0.0)
    core.handle(PeerRegistered("d", frozenset({DENOISE}), capacity=2), 0.0)
    core.batches.makes("", "a", FORWARD)
    core.handle(PeerHeartbeat("d", forwards=(ForwardTime(FORWARD, 1, 1.0), ForwardTime(FORWARD, 2, 1.5))), 0.0)
    sent: list[Execute] = []
    for job in ("j1", "j2"):
        (encode,) = core.handle(JobSubmitted(job, 1e9, "s", batch="a"), 0.0)[:1]
        done = core.handle(StageDone("e", StageResult(encode.task_id, job, ENCODE, None)), 0.0)
        sent += [action for action in done if isinstance(action, Execute) and action.stage is DENOISE]
    # The first alone for 10 s, then both for 15 s, each half as much again slower.
    denoise(core, sent[0], 0.0)
    denoise(core, sent[1], 10.0)
    core.handle(StageDone("d", StageResult(sent[0].task_id, "j1", DENOISE, None, 25.0)), 25.0)
    assert core.estimates.seconds(DENOISE, "s") == pytest.approx(20.0)
    core.handle(StageDone("d", StageResult(sent[1].task_id, "j2", DENOISE, None, 25.0)), 35.0)
    assert core.estimates.seconds(DENOISE, "s") == pytest.approx(20.0)


def test_a_prediction_counts_jobs_that_share_forwards_with_their_part_of_what_all_take() -> None:
    core: Core = Core(Policy(), epoch="e", now=0.0)
    core.handle(PeerRegistered("d", frozenset({DENOISE}), capacity=4), 0.0)
    core.estimates.learn(ENCODE, "s", 0.0), core.estimates.learn(DECODE, "s", 0.0)
    core.estimates.learn(DENOISE, "s", 10.0)
    core.batches.makes("", "a", FORWARD)
    times = (ForwardTime(FORWARD, 1, 1.0), ForwardTime(FORWARD, 2, 1.2), ForwardTime(FORWARD, 3, 1.8))
    core.handle(PeerHeartbeat("d", forwards=times), 0.0)
    for number in range(6):
        core.handle(JobSubmitted(f"j{number}", 1e9, "s", batch="a"), 0.0)
    # Two at once take 12 s; a third would gain nothing.
    predicted = core.predict(0.0, "s")
    assert predicted.wait == pytest.approx(3 * 12.0)
    assert predicted.end == pytest.approx(4 * 12.0)


# ------------------------------------------------------------ what is known of a step


def test_between_what_was_measured_it_grows_evenly_and_beyond_by_what_one_takes() -> None:
    batches = Batches()
    batches.makes("g", "a", FORWARD)
    for number, seconds in {1: 2.0, 4: 3.5}.items():
        batches.measured("g", ForwardTime(FORWARD, number, seconds))
    assert [batches.slowdown("g", "a", number) for number in (1, 2, 3, 4, 8)] == [1.0, 1.25, 1.5, 1.75, 3.5]


def test_times_that_cannot_be_are_not_learnt() -> None:
    batches = Batches()
    batches.makes("g", "a", FORWARD)
    batches.measured("g", ForwardTime(FORWARD, 1, 1.0))
    for requests, seconds in ((0, 1.0), (2, 0.0), (2, -1.0), (2, float("nan")), (2, float("inf"))):
        batches.measured("g", ForwardTime(FORWARD, requests, seconds))
    assert batches.slowdown("g", "a", 2) == 2.0


def test_no_more_shapes_are_remembered_than_a_thousand_or_so() -> None:
    batches = Batches()
    for number in range(5000):
        batches.measured("g", ForwardTime(str(number), 1, 1.0))
        batches.makes("g", str(number), str(number))
        batches.shaped(str(number), str(number))
    assert len(batches) <= 3 * 1024
