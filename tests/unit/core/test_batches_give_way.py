"""Denoisings that share forwards, and somebody more urgent: who of them is parked."""

from __future__ import annotations

from diffusion_router.core import Deadline, ParkReason, ParkTask, Policy, Stage
from unit.core.bed import DECODE, DENOISE, Bed


def crowded(capacity: int, *, target: float = 1e6) -> tuple[Bed, list[str]]:
    """One denoiser, and two on it that end by their targets even if they wait."""
    bed = Bed(denoisers=1, capacity=capacity, policy=Policy(scheduling=Deadline()), resumable=True)
    for shape, seconds in (("", 100.0), ("short", 1.0)):
        for stage in Stage:
            bed.world.core.estimates.learn(stage, shape, seconds if stage is DENOISE else 0.0)
    for batch in ("a", "b"):
        bed.measure(batch=batch, together={1: 1.0, 2: 1.2, 3: 1.4, 4: 1.6})
    return bed, bed.ask("a", target=1e6) + bed.ask("a", target=target)


def parked(bed: Bed) -> list[str]:
    told = list(bed.world.said(ParkTask))
    assert {park.reason for park in told} <= {ParkReason.GIVES_WAY}
    tasks = {
        held.execute.task_id: held.execute.job_id for worker in bed.world.workers for held in worker.tasks.values()
    }
    return sorted(tasks[park.task_id] for park in told)


def ends_well(bed: Bed) -> bool:
    bed.world.spawn(DECODE)
    bed.world.run()
    bed.world.check_at_rest()
    return max(bed.world.steps.values()) == 1


def test_all_make_way_for_one_that_shares_no_forward_with_them() -> None:
    bed, jobs = crowded(capacity=4)
    bed.ask("b", shape="short", target=3.0)
    assert parked(bed) == jobs
    assert ends_well(bed), "nothing is computed twice"


def test_one_makes_way_for_one_that_shares_with_the_others() -> None:
    bed, _ = crowded(capacity=2)
    bed.ask("a", shape="short", target=3.0)
    assert len(parked(bed)) == 1
    assert ends_well(bed), "nothing is computed twice"


def test_none_does_if_one_of_them_cannot_afford_it() -> None:
    # It needs 80 s, since two share and a third is done.
    bed, _ = crowded(capacity=4, target=80.5)
    bed.ask("b", shape="short", target=3.0)
    assert parked(bed) == []


def test_one_alone_makes_way_if_it_can() -> None:
    bed, _ = crowded(capacity=2, target=80.5)
    bed.ask("a", shape="short", target=3.0)
    assert parked(bed) == ["j1"]
