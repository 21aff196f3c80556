"""What the core is told of a job is on its own clock, whenever the job was accepted, and in whichever life."""

from __future__ import annotations

from dataclasses import replace

from diffusion_router.core import Priority
from diffusion_router.store import JobRecord
from diffusion_router.submitted import submitted
from diffusionpipeline.v1 import job_pb2, stage_pb2

RECORD = JobRecord(
    id="a",
    parameters=stage_pb2.JobParameters(prompt="x", seed=1),
    # On the wall's clock, which has been set since.
    created_at=990_000.0,
    accepted_at=1000.0,
    deadline_at=1600.0,
    target_seconds=30.0,
    priority=job_pb2.PRIORITY_BATCH,
    tenant="t",
)


def test_a_job_that_is_accepted_now_begins_now() -> None:
    event = submitted(RECORD, 1000.0, 7.0, conditioning="key")
    assert (event.since, event.deadline, event.target, event.restored) == (7.0, 607.0, 30.0, False)
    assert (event.priority, event.tenant, event.conditioning) == (Priority.BATCH, "t", "key")


def test_one_of_an_earlier_life_keeps_what_it_has_waited() -> None:
    event = submitted(RECORD, 1100.0, 7.0, restored=True)
    assert (event.since, event.deadline, event.target, event.restored) == (-93.0, 507.0, 30.0, True)


def test_one_of_an_earlier_version_counts_from_the_walls_clock() -> None:
    event = submitted(replace(RECORD, created_at=1001.0, accepted_at=None), 1100.0, 7.0, restored=True)
    assert event.since == -92.0
