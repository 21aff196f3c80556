"""The job store: what was accepted is on disk before the client hears of it, and is found again after a restart.

It holds what a restart cannot do without: parameters, deadline, how many workers a job has cost, and its end. How far
an unfinished job has come is not here: the workers say what they hold when they come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self

from sqlalchemy import Connection, Engine, RowMapping, Select, bindparam, delete, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from diffusion_router.store.errors import DuplicateKey, StoreError, StoreUnavailable
from diffusion_router.store.records import UNFINISHED, JobRecord
from diffusion_router.store.schema import describe, jobs, open_engine
from diffusion_router.store.writer import Row, Statement, Writer
from diffusionpipeline.v1 import job_pb2, stage_pb2

TIMEOUT_SECONDS: Final = 30.0
MAX_LISTED: Final = 1000

# Within JobStore, `list` is its method.
_Records = list[JobRecord]


def _duplicate_key(connection: Connection, rows: Sequence[Row]) -> Exception | None:
    key = rows[0]["idempotency_key"]
    found = _records(connection, _of_key(key)) if key is not None else []
    return DuplicateKey(found) if found else None


# The ranks keep the order of any one job's life, also when several of its writes meet in one transaction.
_ADD: Final = Statement(0, insert(jobs), _duplicate_key)
_RECORD_KILLS: Final = Statement(
    1, update(jobs).where(jobs.c.id == bindparam("job_id")).values(kills=bindparam("killed"))
)
_FINISH: Final = Statement(
    2,
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"), jobs.c.completed_at.is_(None))
    .values(
        status=bindparam("end_status"),
        completed_at=bindparam("end_at"),
        expires_at=bindparam("keep_until"),
        result=bindparam("outcome"),
    ),
)
_DELETE: Final = Statement(3, delete(jobs).where(jobs.c.id == bindparam("job_id")))


class JobStore:
    """All methods raise StoreUnavailable when the database refuses or does not answer within TIMEOUT_SECONDS."""

    def __init__(self, engine: Engine, name: str, retain_seconds: float) -> None:
        self._engine = engine
        self._name = name
        self._retain_seconds = retain_seconds
        self._writer = Writer(engine, name)
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="job-store-reader")

    @classmethod
    async def open(cls, url: str, *, retain_seconds: float = 86_400.0) -> Self:
        """url: a SQLAlchemy URL with a synchronous driver. retain_seconds: how long an ended job is kept.

        Raises StoreError, naming the database and the remedy, when it is damaged, another version's, or out of reach.
        """
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                engine = await asyncio.to_thread(open_engine, url)
        except TimeoutError as error:
            raise StoreError(f"{describe(url)} did not answer within {TIMEOUT_SECONDS:g} s") from error
        return cls(engine, describe(url), retain_seconds)

    async def close(self) -> None:
        """Commit what waits, then close. Later calls raise StoreUnavailable."""
        await self._writer.close()
        await asyncio.to_thread(self._readers.shutdown)
        await asyncio.to_thread(self._engine.dispose)

    async def add(self, records: Sequence[JobRecord]) -> None:
        """Write down the jobs of one request, all or none. Raises DuplicateKey if their key has jobs already."""
        if records:
            await self._writer.write(_ADD, [_to_row(record) for record in records], timeout=TIMEOUT_SECONDS)

    async def finish(self, ended: Sequence[job_pb2.Job]) -> None:
        """Write down how jobs ended, together. A job that has ended before, or is not there, is left as it is."""
        rows = [
            {
                "job_id": job.id,
                "end_status": job.status,
                "end_at": job.completed_at,
                "keep_until": job.completed_at + self._retain_seconds,
                "outcome": job.SerializeToString(),
            }
            for job in ended
        ]
        if rows:
            await self._writer.write(_FINISH, rows, timeout=TIMEOUT_SECONDS)

    async def record_kills(self, job_id: str, kills: int) -> None:
        """Write down that `kills` workers in all were lost while they ran this job."""
        await self._writer.write(_RECORD_KILLS, [{"job_id": job_id, "killed": kills}], timeout=TIMEOUT_SECONDS)

    async def delete(self, *job_ids: str) -> None:
        """Forget jobs. Unknown ones are no error."""
        if job_ids:
            await self._writer.write(_DELETE, [{"job_id": job_id} for job_id in job_ids], timeout=TIMEOUT_SECONDS)

    async def expire(self, now: float, *, limit: int = MAX_LISTED) -> _Records:
        """At most `limit` ended jobs whose time to be kept is over. `delete` them once their files are gone.

        In two steps, so that a router that dies between them finds the job again and leaves no file behind.
        """
        due = select(jobs).where(jobs.c.expires_at <= now).order_by(jobs.c.expires_at).limit(limit)
        return await self._read(due)

    async def unfinished(self) -> _Records:
        """All jobs that have not ended, in the order in which they were accepted."""
        query = select(jobs).where(jobs.c.status.in_(UNFINISHED)).order_by(jobs.c.seq)
        return await self._read(query)

    async def get(self, job_id: str) -> JobRecord | None:
        found = await self._read(select(jobs).where(jobs.c.id == job_id))
        return found[0] if found else None

    async def list(self, status: job_pb2.JobStatus.ValueType | None = None, limit: int = 100) -> _Records:
        """The newest jobs first. status: as written down, so an unfinished job has the one it was added with."""
        query = select(jobs).order_by(jobs.c.seq.desc()).limit(min(limit, MAX_LISTED))
        if status is not None:
            query = query.where(jobs.c.status == status)
        return await self._read(query)

    async def page(
        self, output_format: str, limit: int, *, after: str | None = None, oldest_first: bool = False
    ) -> _Records:
        """Jobs of one output format, by acceptance. after: begin beyond this job; with one that is not there, none."""
        query = select(jobs).where(jobs.c.output_format == output_format).limit(min(limit, MAX_LISTED))
        if after is not None:
            place = select(jobs.c.seq).where(jobs.c.id == after).scalar_subquery()
            query = query.where(jobs.c.seq > place if oldest_first else jobs.c.seq < place)
        return await self._read(query.order_by(jobs.c.seq if oldest_first else jobs.c.seq.desc()))

    async def by_idempotency_key(self, key: str) -> _Records:
        """The jobs that were made under `key`, in their order in the request; none if it is new."""
        return await self._read(_of_key(key))

    async def _read(self, query: Select[Any]) -> _Records:
        def run() -> _Records:
            with self._engine.connect() as connection:
                return _records(connection, query)

        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._readers, run)
        except TimeoutError as error:
            raise StoreUnavailable(f"{self._name} did not answer within {TIMEOUT_SECONDS:g} s") from error
        except RuntimeError as error:
            raise StoreUnavailable(f"{self._name} is closed") from error
        except SQLAlchemyError as error:
            raise StoreUnavailable(f"{self._name} refused a read: {getattr(error, 'orig', None) or error}") from error


def _of_key(key: str) -> Select[Any]:
    return select(jobs).where(jobs.c.idempotency_key == key).order_by(jobs.c.request_index)


def _records(connection: Connection, query: Select[Any]) -> list[JobRecord]:
    return [_to_record(row) for row in connection.execute(query).mappings()]


def _to_row(record: JobRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "idempotency_key": record.idempotency_key,
        "request_index": record.index,
        "request_digest": record.digest,
        "parameters": record.parameters.SerializeToString(),
        "output_format": record.parameters.output_format,
        "model": record.model,
        "status": record.status,
        "created_at": record.created_at,
        "deadline_at": record.deadline_at,
        "completed_at": record.completed_at,
        "expires_at": record.expires_at,
        "kills": record.kills,
        "result": None if record.result is None else record.result.SerializeToString(),
    }


def _to_record(row: RowMapping) -> JobRecord:
    return JobRecord(
        id=row["id"],
        parameters=stage_pb2.JobParameters.FromString(row["parameters"]),
        created_at=row["created_at"],
        deadline_at=row["deadline_at"],
        model=row["model"],
        idempotency_key=row["idempotency_key"],
        index=row["request_index"],
        digest=row["request_digest"],
        status=row["status"],
        kills=row["kills"],
        completed_at=row["completed_at"],
        expires_at=row["expires_at"],
        result=None if row["result"] is None else job_pb2.Job.FromString(row["result"]),
    )
