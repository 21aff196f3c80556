"""What is accepted is bounded, and who is refused is told a wait that holds (I14)."""

from __future__ import annotations

import math

import pytest

from diffusion_router.core import (
    Core,
    Execute,
    JobStatus,
    JobSubmitted,
    PeerRegistered,
    Policy,
    Progressed,
    QueueFull,
    Stage,
    StageDone,
    StageResult,
    TooLate,
)
from unit.core.timed import Pipeline, in_time

ENCODE, DENOISE, DECODE = Stage
SPLIT = {frozenset({ENCODE}): 1, frozenset({DENOISE}): 2, frozenset({DECODE}): 1}
WHOLE = {frozenset(Stage): 2}
OF_STAGE = {ENCODE: 0.05, DENOISE: 4.0, DECODE: 0.5}
OF_SHAPE = {"small": 1.0, "large": 8.0}


def pipeline(fleet: dict[frozenset[Stage], int] = SPLIT, seed: int = 0, **settings: int) -> Pipeline:
    made = Pipeline(
        fleet,
        lambda stage, shape: OF_STAGE[stage] * OF_SHAPE[shape] * made.random.uniform(0.8, 1.2),
        seed=seed,
        **settings,
    )
    return made


def warmed(made: Pipeline) -> Pipeline:
    """One job of each shape has passed."""
    for shape in OF_SHAPE:
        made.submit(shape, timeout=600.0)
    made.run(made.now + 200.0)
    return made


def arrive(made: Pipeline, jobs: int, every: float, timeout: float) -> None:
    for _ in range(jobs):
        made.submit(made.random.choices(list(OF_SHAPE), [0.8, 0.2])[0], timeout * made.random.uniform(0.5, 1.5))
        made.run(made.now + every)


@pytest.mark.parametrize("accept_late", [False, True])
def test_i14_two_thousand_requests_before_a_slow_denoiser_never_exceed_the_bound(accept_late: bool) -> None:
    made = warmed(pipeline(max_queued=256))
    for _ in range(2000):
        made.submit("small", timeout=3000.0, accept_late=accept_late)
        made.run(made.now + 0.001)
    assert made.most_waiting == 256
    assert all(isinstance(refused, QueueFull) for refused in made.refused)
    made.run()
    assert {job.status for job in made.admitted.values()} == {JobStatus.COMPLETED}


@pytest.mark.parametrize("fleet", [SPLIT, WHOLE], ids=["split", "whole"])
@pytest.mark.parametrize("seed", range(3))
def test_i14_of_what_is_admitted_at_twice_the_capacity_nearly_all_ends_in_time(
    fleet: dict[frozenset[Stage], int], seed: int
) -> None:
    made = warmed(pipeline(fleet, seed=seed))
    mean = 0.8 * OF_SHAPE["small"] + 0.2 * OF_SHAPE["large"]
    capacity = 2 / (mean * OF_STAGE[DENOISE])
    arrive(made, 1500, 1 / (2 * capacity), timeout=120.0)
    made.run()
    assert made.refused
    assert all(isinstance(refused, TooLate) for refused in made.refused)
    assert in_time(list(made.admitted.values())) >= 0.95
    assert len(made.admitted) >= 600, "what could be done was not refused"


def test_i14_a_job_that_would_end_after_its_deadline_is_told_so_and_let_in_if_it_asks() -> None:
    made = warmed(pipeline())
    for _ in range(20):
        made.submit("large", timeout=1e6)
    made.submit("small", timeout=100.0)
    (refused,) = made.refused
    assert isinstance(refused, TooLate)
    assert refused.predicted == pytest.approx(20 * 32 / 2, rel=0.2)
    assert refused.retry_after == pytest.approx(refused.predicted - 100.0)
    made.submit("small", timeout=100.0, accept_late=True)
    # It has seen one such job, which may have been a quick one.
    made.run(made.now + 1.2 * refused.retry_after)
    made.submit("small", timeout=100.0)
    assert len(made.refused) == 1, "it came back when it was told to"


def test_a_place_is_free_when_it_was_said_to_be() -> None:
    made = warmed(pipeline(max_queued=10))
    for _ in range(15):
        made.submit("large", timeout=1e6)
    refused = made.refused[-1]
    made.run(made.now + refused.retry_after * 1.5)
    made.submit("large", timeout=1e6)
    assert made.refused[-1] is refused


def test_nobody_is_refused_by_a_guess() -> None:
    made = pipeline()
    made.submit("small", timeout=0.001)
    assert not made.refused


def core_of(fleet: dict[frozenset[Stage], int]) -> Core:
    core = Core(Policy(lease=1e9), epoch="e", now=0.0)
    for stages, number in fleet.items():
        for index in range(number):
            name = f"{sorted(stages)}{index}"
            core.handle(PeerRegistered(name, stages, pod_name=name), 0.0)
    return core


def test_a_stage_that_was_not_timed_yet_counts_like_the_others_and_never_as_nothing() -> None:
    core = core_of(SPLIT)
    for number in range(9):
        core.handle(JobSubmitted(f"j{number}", 1e9, "s"), 0.0)
    assert core.predict(0.0, "s").wait > 0
    core.estimates.learn(ENCODE, "s", 2.0)
    assert core.estimates.seconds(DENOISE, "s") == core.estimates.seconds(DECODE, "s") == 2.0
    assert core.predict(0.0, "s").wait == pytest.approx(9 * 2.0)


def test_a_stage_that_runs_takes_at_least_as_long_as_it_has() -> None:
    core = core_of(WHOLE)
    (task,) = [action for action in core.handle(JobSubmitted("j", 1e9, "s"), 0.0) if hasattr(action, "attempt")]
    core.handle(Progressed(task.incarnation, task.task_id, 0, 1), 0.0)
    assert core.predict(50.0, "s").end >= 50.0


def test_steps_that_were_made_say_how_long_the_rest_takes() -> None:
    made = pipeline(WHOLE)
    made.submit("large", timeout=600.0)
    made.run(10.0)
    assert made.core.estimates.seconds(DENOISE, "large") == pytest.approx(32.0, rel=0.25)


def test_a_shape_that_was_not_seen_counts_like_the_average_of_its_stage() -> None:
    core = core_of(SPLIT)
    core.estimates.learn(DENOISE, "64x64", 4.0)
    assert core.estimates.seconds(DENOISE, "128x128") == pytest.approx(4.0)


def test_roles_that_share_peers_share_their_time() -> None:
    split, whole = core_of({frozenset({stage}): 1 for stage in Stage}), core_of({frozenset(Stage): 1})
    for core in (split, whole):
        for stage, seconds in ((ENCODE, 1.0), (DENOISE, 3.0), (DECODE, 2.0)):
            core.estimates.learn(stage, "s", seconds)
        for number in range(4):
            core.handle(JobSubmitted(f"j{number}", 1e9, "s"), 0.0)
    assert split.predict(0.0, "s").wait == pytest.approx(4 * 3.0)
    assert whole.predict(0.0, "s").wait == pytest.approx(4 * 6.0)


def test_who_finds_a_place_free_waits_for_nobody() -> None:
    core = core_of({frozenset(Stage): 8})
    core.estimates.learn(DENOISE, "s", 10.0)
    for number in range(7):
        core.handle(JobSubmitted(f"j{number}", 1e9, "s"), 0.0)
    assert core.predict(0.0, "s").wait == 0.0


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -1.0])
def test_a_time_that_is_none_is_not_learnt(seconds: float) -> None:
    core = core_of(SPLIT)
    core.estimates.learn(DENOISE, "s", seconds)
    core.handle(JobSubmitted("j", 1e9, "s"), 0.0)
    prediction = core.predict(0.0, "s")
    assert math.isfinite(prediction.end)
    assert not prediction.known


def test_what_messages_and_transfers_take_is_part_of_the_prediction() -> None:
    core: Core = Core(Policy(), epoch="e", now=0.0)
    core.handle(PeerRegistered("w", frozenset(Stage)), 0.0)
    (encode, *_) = core.handle(JobSubmitted("j", 1e9, "s"), 0.0)
    core.handle(Progressed("w", encode.task_id, 0, 1), 0.5)
    (denoise,) = (
        action
        for action in core.handle(StageDone("w", StageResult(encode.task_id, "j", ENCODE, None, 2.0)), 2.5)
        if isinstance(action, Execute)
    )
    core.handle(Progressed("w", denoise.task_id, 0, 1), 2.75)
    core.estimates.learn(DENOISE, "s", 3.0)
    core.estimates.learn(DECODE, "s", 1.0)
    before = core.predict(2.75, "s")
    assert before.end - before.wait == pytest.approx(2.0 + 3.0 + 1.0 + 0.5 + 0.25)
