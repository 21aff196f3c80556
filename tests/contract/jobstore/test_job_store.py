"""What any job store must do, whichever database it is: a job is kept, and ends once (I1)."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import event

from contract.jobstore.records import ended, record
from diffusion_router.store import DuplicateKey, JobStore, StoreUnavailable
from diffusion_router.store.jobs import MAX_LISTED
from diffusionpipeline.v1 import job_pb2


def ids(records: list) -> list[str]:
    return [item.id for item in records]


async def test_a_job_is_read_back_as_it_was_written(store: JobStore) -> None:
    written = record("a", key="k", index=3, digest="request", kills=1, model="x" * 1000)
    await store.add([written])
    assert await store.get("a") == written
    assert await store.get("b") is None


async def test_how_a_job_is_to_be_served_is_read_back_after_a_restart(url: str) -> None:
    terms = {"accepted_at": 999.5, "target_seconds": 30.0, "priority": job_pb2.PRIORITY_BATCH, "tenant": "a tenant 例"}
    first = await JobStore.open(url)
    await first.add([record("a", **terms), record("b")])
    await first.close()
    second = await JobStore.open(url)
    assert await second.unfinished() == [record("a", **terms), record("b")]
    await second.close()


async def test_an_ended_job_keeps_its_result_and_is_unfinished_no_more(store: JobStore) -> None:
    await store.add([record("a"), record("b")])
    await store.finish([ended("a")], now=1010.0)
    found = await store.get("a")
    assert found is not None
    assert (found.status, found.completed_at, found.expires_at) == (job_pb2.JOB_STATUS_COMPLETED, 1010.0, 1110.0)
    assert found.result == ended("a")
    assert ids(await store.unfinished()) == ["b"]


async def test_a_job_ends_once(store: JobStore) -> None:
    await store.add([record("a")])
    await store.finish([ended("a")], now=1010.0)
    await store.finish([ended("a", job_pb2.JOB_STATUS_FAILED, at=2000.0)], now=2000.0)
    found = await store.get("a")
    assert found is not None
    assert (found.status, found.completed_at) == (job_pb2.JOB_STATUS_COMPLETED, 1010.0)


async def test_the_end_of_an_unknown_job_is_no_error(store: JobStore) -> None:
    await store.finish([ended("nobody")], now=1010.0)
    assert await store.get("nobody") is None


async def test_unfinished_jobs_come_in_the_order_in_which_they_were_accepted(store: JobStore) -> None:
    for name in ("c", "a", "b"):
        await store.add([record(name)])
    await store.add([record("e"), record("d")])
    assert ids(await store.unfinished()) == ["c", "a", "b", "e", "d"]


async def test_kills_are_kept_across_a_restart(url: str) -> None:
    first = await JobStore.open(url)
    await first.add([record("a")])
    await first.record_kills("a", 1)
    await first.close()
    second = await JobStore.open(url)
    assert [item.kills for item in await second.unfinished()] == [1]
    await second.close()


async def test_a_list_is_newest_first_by_status_and_bounded(store: JobStore) -> None:
    await store.add([record(name) for name in "abcd"])
    await store.finish([ended("a"), ended("b", job_pb2.JOB_STATUS_CANCELLED)], now=1010.0)
    assert ids(await store.list()) == ["d", "c", "b", "a"]
    assert ids(await store.list(limit=2)) == ["d", "c"]
    assert ids(await store.list(job_pb2.JOB_STATUS_COMPLETED)) == ["a"]
    assert ids(await store.list(job_pb2.JOB_STATUS_CANCELLED)) == ["b"]
    assert ids(await store.list(job_pb2.JOB_STATUS_QUEUED)) == ["d", "c"]
    await store.add([record(f"more{index}") for index in range(MAX_LISTED)])
    assert len(await store.list(limit=10 * MAX_LISTED)) == MAX_LISTED


async def test_a_page_has_one_kind_of_output_and_begins_after_a_job(store: JobStore) -> None:
    for name in "abcdef":
        await store.add([record(name, output_format="mp4" if name in "ace" else "png")])
    await store.finish([ended("a")], now=1010.0)
    assert ids(await store.page("mp4", 10)) == ["e", "c", "a"]
    assert ids(await store.page("mp4", 2)) == ["e", "c"]
    assert ids(await store.page("mp4", 2, after="c")) == ["a"]
    assert ids(await store.page("mp4", 2, oldest_first=True)) == ["a", "c"]
    assert ids(await store.page("mp4", 2, after="c", oldest_first=True)) == ["e"]
    assert ids(await store.page("png", 1, after="f")) == ["d"]
    assert ids(await store.page("mp4", 10, after="nobody")) == []
    await store.add([record(f"more{index}", output_format="mp4") for index in range(MAX_LISTED)])
    assert len(await store.page("mp4", 10 * MAX_LISTED)) == MAX_LISTED


async def test_ended_jobs_expire_and_others_never_do(store: JobStore) -> None:
    await store.add([record(name) for name in "abc"])
    await store.finish([ended("b")], now=2000.0)
    await store.finish([ended("a")], now=1000.0)
    assert await store.expire(1099.0) == []
    assert ids(await store.expire(1100.0)) == ["a"]
    assert ids(await store.expire(9e9)) == ["a", "b"]
    assert ids(await store.expire(9e9, limit=1)) == ["a"]
    await store.delete("a", "b")
    assert await store.expire(9e9) == []
    assert ids(await store.list()) == ["c"]


async def test_a_key_finds_the_jobs_of_its_request_in_their_order(store: JobStore) -> None:
    await store.add([record("x", key="k", index=1), record("y", key="k", index=0)])
    await store.add([record("z", key="other")])
    assert ids(await store.by_idempotency_key("k")) == ["y", "x"]
    assert await store.by_idempotency_key("unknown") == []


async def test_a_second_request_with_a_key_adds_nothing_and_names_the_first_ones_jobs(store: JobStore) -> None:
    await store.add([record("a", key="k", digest="first"), record("b", key="k", index=1, digest="first")])
    with pytest.raises(DuplicateKey) as caught:
        await store.add([record("c", key="k", digest="second"), record("d", key="k", index=1, digest="second")])
    assert [(record.id, record.digest) for record in caught.value.records] == [("a", "first"), ("b", "first")]
    assert ids(await store.list()) == ["b", "a"]


async def test_jobs_without_a_key_never_meet(store: JobStore) -> None:
    await store.add([record("a")])
    await store.add([record("b")])
    assert len(await store.list()) == 2


async def test_a_key_is_free_again_once_its_jobs_are_deleted(store: JobStore) -> None:
    await store.add([record("a", key="k")])
    await store.delete("a")
    await store.add([record("b", key="k")])
    assert ids(await store.by_idempotency_key("k")) == ["b"]


async def test_of_many_requests_with_one_key_at_once_exactly_one_is_added(store: JobStore) -> None:
    outcomes = await asyncio.gather(
        *(store.add([record(f"job{index}", key="k")]) for index in range(20)), return_exceptions=True
    )
    assert sum(outcome is None for outcome in outcomes) == 1
    winner = f"job{outcomes.index(None)}"
    assert all(ids(outcome.records) == [winner] for outcome in outcomes if isinstance(outcome, DuplicateKey))
    assert ids(await store.list()) == [winner]


async def test_writes_that_wait_share_a_commit(store: JobStore) -> None:
    commits = 0

    def count(_connection: object) -> None:
        nonlocal commits
        commits += 1

    event.listen(store._engine, "commit", count)
    await asyncio.gather(*(store.add([record(f"job{index}")]) for index in range(500)))
    await asyncio.gather(*(store.finish([ended(f"job{index}")], now=1010.0) for index in range(500)))
    assert len(await store.list(job_pb2.JOB_STATUS_COMPLETED, 1000)) == 500
    assert commits <= 10


async def test_one_bad_write_in_a_shared_commit_fails_alone(store: JobStore) -> None:
    await store.add([record("taken")])
    outcomes = await asyncio.gather(
        store.add([record("a")]),
        store.add([record("b"), record("taken")]),
        store.add([record("c")]),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], StoreUnavailable)
    assert (outcomes[0], outcomes[2]) == (None, None)
    assert ids(await store.list()) == ["c", "a", "taken"]


async def test_a_jobs_writes_keep_their_order_within_one_commit(store: JobStore) -> None:
    await asyncio.gather(
        store.add([record("a")]),
        store.record_kills("a", 2),
        store.finish([ended("a")], now=1010.0),
        store.add([record("b")]),
    )
    found = await store.get("a")
    assert found is not None
    assert (found.kills, found.status) == (2, job_pb2.JOB_STATUS_COMPLETED)


async def test_a_caller_that_gives_up_holds_up_nobody(store: JobStore) -> None:
    impatient = asyncio.create_task(store.add([record("a")]))
    await asyncio.sleep(0)
    impatient.cancel()
    await store.add([record("b")])
    assert (await store.get("b")) is not None


async def test_closing_commits_what_waits_and_refuses_what_comes_after(url: str) -> None:
    store = await JobStore.open(url)
    writes = [asyncio.create_task(store.add([record(f"job{index}")])) for index in range(50)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writes)
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.add([record("late")])
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.get("job0")
    again = await JobStore.open(url)
    assert len(await again.unfinished()) == 50
    await again.close()
