"""`JobService`: every job from the moment it is accepted until its end is written down.

The one door to jobs for the HTTP and gRPC shells. A job is written down before it is answered (so a router that dies
loses none, I7), and its end is written down before anybody hears of it (so no end is told twice, I1). In between it
lives in the core; here are only what it makes, who waits for it and how it looks to a client. Whether a request
becomes jobs is for `admission`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, TypeAlias

import structlog

from diffusion_router import core, views
from diffusion_router.admission import Admission, Terms, check_same, digest_of, new_records
from diffusion_router.clock import StoreClock
from diffusion_router.housekeeping import Housekeeping
from diffusion_router.metrics import Metrics
from diffusion_router.peers import messages
from diffusion_router.peers.conditioning import Conditionings
from diffusion_router.peers.dispatch import Dispatcher
from diffusion_router.store import (
    ENDED,
    UNFINISHED,
    ArtifactStore,
    DuplicateKey,
    JobRecord,
    JobStore,
    OutcomeUnknown,
    StoreUnavailable,
)
from diffusion_router.submitted import shape_of, submitted
from diffusionpipeline.process.machine import uptime
from diffusionpipeline.v1 import job_pb2, stage_pb2

_RETRY_SECONDS: Final = 1.0
_NO_TERMS: Final = Terms()

log = structlog.get_logger()

# Within JobService, `list` is its method.
_Jobs = list[job_pb2.Job]
_Tasks = list[messages.Task]
_Status: TypeAlias = job_pb2.JobStatus.ValueType


@dataclass(slots=True, eq=False)
class _Live:
    """A job that has not ended in the store."""

    record: JobRecord
    submitted_at: float
    predicted: float | None = None
    """Seconds from its acceptance to its end, as they were predicted then."""
    cancelled: bool = False
    """Before it was known whether it is written down."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Future[job_pb2.Job] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class JobService:
    def __init__(
        self,
        dispatcher: Dispatcher,
        conditionings: Conditionings,
        *,
        jobs: JobStore,
        artifacts: ArtifactStore,
        clock: StoreClock,
        metrics: Metrics,
        max_queued: int,
        timeout_seconds: float,
    ) -> None:
        self.artifacts = artifacts
        self._dispatcher = dispatcher
        self._conditionings = conditionings
        self._jobs = jobs
        self._metrics = metrics
        self._admission = Admission(dispatcher, jobs, metrics, max_queued)
        self._clock = clock
        self._housekeeping = Housekeeping(jobs, artifacts, clock, up=uptime())
        self._timeout_seconds = timeout_seconds
        self._live: dict[str, _Live] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._stopping = False
        dispatcher.add_hands(self)

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Takes up what an earlier life of the router accepted."""
        now, monotonic = self._now(), time.monotonic()
        for record in await self._jobs.unfinished():
            live = self._live[record.id] = _Live(record, monotonic)
            if record.damage:
                log.error("job_not_restored", job_id=record.id, damaged=record.damage)
                self._spawn(self._record_end(live, views.unreadable(record, at=time.time())))
                continue
            self._dispatcher.dispatch(submitted(record, now, monotonic, restored=True))
        if self._live:
            log.info("jobs_restored", count=len(self._live))
        self._sweeper = asyncio.create_task(self._housekeeping.run())

    async def stop(self, timeout: float = 5.0) -> None:
        """Lets the ends that are being written down finish. Jobs under way stay in the store and with the workers."""
        self._stopping = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout)
        for live in self._live.values():
            live.ended.cancel()

    # ------------------------------------------------------------ what the shells call

    async def submit(
        self,
        requests: Sequence[stage_pb2.JobParameters],
        terms: Terms = _NO_TERMS,
        *,
        model: str = "",
        idempotency_key: str | None = None,
    ) -> _Jobs:
        """Accepts all or none; they are written down when this returns. model: the served one's id, if it is known.

        Raises QueueFull, TooLate, IdempotencyConflict, StoreUnavailable. After OutcomeUnknown, which is a
        StoreUnavailable, it is found by its idempotency key whether they were accepted; without one, they are not run.
        """
        digest = digest_of(requests)
        if idempotency_key is not None and (known := await self._admission.earlier(idempotency_key, digest)):
            return [self._recorded_view(record) for record in known]
        seconds = terms.timeout if terms.timeout is not None else self._timeout_seconds
        entering = len(self._live) - len(self._dispatcher.core.jobs)
        predicted = self._admission.check(
            [shape_of(request) for request in requests],
            entering=entering,
            timeout=seconds,
            accept_late=terms.accept_late,
            now=time.monotonic(),
        )
        records = new_records(
            requests,
            terms,
            model=model,
            digest=digest,
            key=idempotency_key,
            accepted=self._now(),
            timeout=seconds,
        )
        try:
            # A client that goes away now must leave no job that is written down and never run.
            await asyncio.shield(self._let_in(records, predicted))
        except DuplicateKey as error:
            check_same(error.records, digest)
            records = error.records
        return [self._recorded_view(record) for record in records]

    def _let_in(self, records: Sequence[JobRecord], predicted: core.Prediction) -> asyncio.Task[None]:
        monotonic = time.monotonic()
        # Known before they are written down: a request with the same key may find them in the store at once.
        self._live.update({record.id: _Live(record, monotonic) for record in records})
        if predicted.known:
            self._live[records[-1].id].predicted = predicted.end
        return self._spawn(self._accept(records))

    async def _accept(self, records: Sequence[JobRecord]) -> None:
        try:
            await self._jobs.add(records)
        except OutcomeUnknown as error:
            self._spawn(self._learn_outcome(records, error.outcome))
            raise
        except BaseException as error:
            self._not_accepted(records, error)
            raise
        self._begin(records)

    async def _learn_outcome(self, records: Sequence[JobRecord], outcome: asyncio.Future[None]) -> None:
        """The client was told that it isn't known whether these are written down; what is has to end all the same."""
        log.warning("acceptance_unknown", job_ids=[record.id for record in records])
        try:
            await outcome
        except Exception as error:
            self._not_accepted(records, error)
            return
        for record in records:
            # Nobody can ask for it again: whoever sent it will have sent another.
            self._live[record.id].cancelled |= record.idempotency_key is None
        self._begin(records)

    def _begin(self, records: Sequence[JobRecord]) -> None:
        for record in records:
            live = self._live[record.id]
            if live.cancelled:
                end: core.JobEnded[messages.Report] = core.JobEnded(
                    record.id, core.JobStatus.CANCELLED, core.FailureKind.CANCELLED, "cancelled before it was begun"
                )
                self._spawn(self._record_end(live, self._final_view(live, end)))
                continue
            key = self._conditionings.key(record.parameters)
            self._dispatcher.dispatch(submitted(record, self._now(), time.monotonic(), conditioning=key))

    def _not_accepted(self, records: Sequence[JobRecord], error: BaseException) -> None:
        for record in records:
            live = self._live.pop(record.id)
            live.ended.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            live.ended.set_exception(StoreUnavailable(f"Job {record.id} was not accepted: {error}"))
            live.notify()

    async def find(self, job_id: str) -> job_pb2.Job | None:
        live = self._live.get(job_id)
        if live is not None:
            return self._view(live)
        record = await self._jobs.get(job_id)
        return None if record is None else self._recorded_view(record)

    async def list(self, status: _Status | None = None, limit: int = 100) -> _Jobs:
        """The newest first. status: what the job is now."""
        if status not in UNFINISHED:
            return [self._recorded_view(record) for record in await self._jobs.list(status, limit)]
        # The store can't tell queued from in progress. What the core has not been given is not written down yet.
        accepted = self._dispatcher.core.jobs
        found = (
            live
            for live in reversed(self._live.values())
            if live.record.id in accepted and self._status(live) == status
        )
        return [self._view(live) for live in islice(found, limit)]

    async def page(
        self, output_format: str, limit: int, *, after: str | None = None, oldest_first: bool = False
    ) -> tuple[_Jobs, bool]:
        """Jobs of one output format beyond the job `after`, and whether there are more."""
        records = await self._jobs.page(output_format, limit + 1, after=after, oldest_first=oldest_first)
        return [self._recorded_view(record) for record in records[:limit]], len(records) > limit

    async def wait(self, job_id: str, timeout: float | None = None) -> job_pb2.Job | None:
        """The job once it has ended. Raises TimeoutError; None: there is no such job."""
        live = self._live.get(job_id)
        if live is None:
            return await self.find(job_id)
        async with asyncio.timeout(timeout):
            return await asyncio.shield(live.ended)

    async def watch(self, job_id: str) -> AsyncIterator[job_pb2.Job]:
        """The job now and after each change; ends with the job, which its deadline bounds."""
        while (live := self._live.get(job_id)) is not None:
            changed = live.changed
            if not live.ended.done():
                yield self._view(live)
                await changed.wait()
        job = await self.find(job_id)
        if job is not None:
            yield job

    async def cancel(self, job_id: str) -> job_pb2.Job | None:
        """Stops it at the next step. The job as it ended, which may be otherwise if it was faster."""
        if (live := self._live.get(job_id)) is not None:
            live.cancelled = True
            self._dispatcher.dispatch(core.CancelRequested(job_id))
        return await self.wait(job_id, timeout=self._timeout_seconds)

    async def delete(self, job_id: str) -> None:
        """Forgets an ended job and its files; any other is left as it is."""
        record = await self._jobs.get(job_id)
        if record is not None and job_id not in self._live:
            await self._housekeeping.forget([record])

    async def put_input(self, data: bytes) -> str:
        """Keeps a client's file until the jobs that read it are forgotten; returns its key."""
        key = f"inputs/{uuid.uuid4().hex}"
        await self.artifacts.put(key, data)
        return key

    def task(self, job_id: str) -> messages.Task | None:
        """The task that this job is at."""
        job = self._dispatcher.core.jobs.get(job_id)
        return None if job is None else job.task

    def may_be_claimed(self, task_id: str, job_id: str) -> bool:
        return self._dispatcher.core.may_be_claimed(task_id, job_id, time.monotonic())

    def tasks(self) -> _Tasks:
        return [job.task for job in self._dispatcher.core.jobs.values() if job.task is not None]

    def parameters(self, job_id: str) -> stage_pb2.JobParameters | None:
        live = self._live.get(job_id)
        return live.record.parameters if live is not None else None

    # ------------------------------------------------------------ what the core says

    def perform(self, action: messages.Action) -> None:
        match action:
            case core.JobChanged():
                if (live := self._live.get(action.job_id)) is not None:
                    live.notify()
            case core.JobKilled():
                self._spawn(self._record_kills(action.job_id, action.kills))
            case core.JobEnded():
                if (live := self._live.get(action.job_id)) is not None:
                    self._spawn(self._record_end(live, self._final_view(live, action)))

    async def _record_end(self, live: _Live, job: job_pb2.Job) -> None:
        if not await self._persist(lambda: self._jobs.finish([job], now=self._now()), "end", job.id):
            return  # the next life of the router ends it again
        self._dispatcher.dispatch(core.JobRecorded(job.id))
        self._live.pop(job.id, None)
        if not live.ended.done():
            live.ended.set_result(job)
        live.notify()
        seconds = time.monotonic() - live.submitted_at
        self._metrics.job_ended(job, seconds, live.predicted)
        of_job = log.bind(job_id=job.id, seconds=round(seconds, 4))
        if job.status == job_pb2.JOB_STATUS_FAILED:
            of_job.warning("job_failed", kind=stage_pb2.FailureKind.Name(job.failure.kind), reason=job.failure.message)
        else:
            of_job.info("job_ended", status=job_pb2.JobStatus.Name(job.status))

    async def _record_kills(self, job_id: str, kills: int) -> None:
        log.warning("worker_died_while_running_job", job_id=job_id, kills=kills)
        await self._persist(lambda: self._jobs.record_kills(job_id, kills), "kills", job_id)

    async def _persist(self, write: Callable[[], Awaitable[None]], what: str, job_id: str) -> bool:
        """Writes until it is written. False: the router is told to stop, and it was not."""
        while True:
            try:
                await write()
                return True
            except StoreUnavailable as error:
                log.error("not_written_yet", what=what, job_id=job_id, error=str(error), retry_seconds=_RETRY_SECONDS)
                if self._stopping:
                    return False
                await asyncio.sleep(_RETRY_SECONDS)

    # ------------------------------------------------------------ inside

    def _recorded_view(self, record: JobRecord) -> job_pb2.Job:
        if record.result is not None:
            return record.result
        if record.status in ENDED:
            return views.unreadable(record, at=record.completed_at or record.created_at)
        live = self._live.get(record.id)
        return views.accepted(record) if live is None else self._view(live)

    def _now(self) -> float:
        """On the store's clock."""
        return self._clock.at(uptime())

    def _status(self, live: _Live) -> _Status:
        return views.status(self._dispatcher.core.jobs.get(live.record.id))

    def _view(self, live: _Live) -> job_pb2.Job:
        if live.ended.done():
            return live.ended.result()
        return views.now(live.record, self._dispatcher.core.jobs.get(live.record.id))

    def _final_view(self, live: _Live, end: core.JobEnded[messages.Report]) -> job_pb2.Job:
        return views.ended(self._view(live), end, at=time.time())

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
