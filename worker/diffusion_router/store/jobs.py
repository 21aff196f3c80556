"""The job store: what was accepted is on disk before the client hears of it, and is found again after a restart.

It holds what a restart cannot do without: parameters, deadline, how many workers a job has cost, and its end. How far
an unfinished job has come is not here: the workers say what they hold when they come back.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self, TypeVar

from google.protobuf.message import DecodeError
from sqlalchemy import Connection, Engine, RowMapping, Select, bindparam, delete, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from diffusion_router.store.errors import DuplicateKey, StoreError, StoreUnavailable
from diffusion_router.store.lock import ServingLock
from diffusion_router.store.records import UNFINISHED, JobRecord
from diffusion_router.store.schema import describe, jobs, open_engine, pipelines
from diffusion_router.store.writer import Row, Statement, Writer
from diffusionpipeline.v1 import job_pb2, stage_pb2

TIMEOUT_SECONDS: Final = 30.0
MAX_LISTED: Final = 1000

T = TypeVar("T")

# Within JobStore, `list` is its method.
_Records = list[JobRecord]
_Keys = list[str]


def _duplicate_key(connection: Connection, rows: Sequence[Row]) -> Exception | None:
    pipeline, key = rows[0]["pipeline"], rows[0]["idempotency_key"]
    found = _records(_of_key(pipeline, key), connection) if key is not None else []
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
_KEEP_CLOCK: Final = Statement(
    4,
    update(pipelines)
    .where(pipelines.c.name == bindparam("of_pipeline"))
    .values(boot_id=bindparam("boot"), clock_base=bindparam("base"), clock_lag=bindparam("lag")),
)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a pipeline's router alone has of the database."""

    lock: ServingLock
    secret: bytes


class JobStore:
    """The jobs of one pipeline, in a database that others may share.

    All methods raise StoreUnavailable when the database refuses or does not answer within the timeout.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        opened: Opened,
        *,
        pipeline: str,
        retain_seconds: float,
        timeout: float,
    ) -> None:
        self.secret = opened.secret
        """Random, the pipeline's own, and the same after every restart."""
        self._engine = engine
        self._name = name
        self._lock = opened.lock
        self._pipeline = pipeline
        self._retain_seconds = retain_seconds
        self._timeout = timeout
        self._writer = Writer(engine, name)
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="job-store-reader")

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        pipeline: str = "default",
        retain_seconds: float = 86_400.0,
        timeout: float = TIMEOUT_SECONDS,
    ) -> Self:
        """url: a SQLAlchemy URL with a synchronous driver. retain_seconds: how long an ended job is kept.

        Raises StoreServed if another router serves this pipeline's jobs there, and StoreError, naming the database and
        the remedy, when it is damaged, another version's, or out of reach.
        """
        try:
            async with asyncio.timeout(timeout):
                engine, opened = await asyncio.to_thread(_open, url, pipeline)
        except TimeoutError as error:
            raise StoreError(f"{describe(url)} did not answer within {timeout:g} s") from error
        return cls(engine, describe(url), opened, pipeline=pipeline, retain_seconds=retain_seconds, timeout=timeout)

    async def close(self) -> None:
        """Commit what waits, then close. Later calls raise StoreUnavailable."""
        await self._writer.close(self._timeout)
        self._readers.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._engine.dispose)
        self._lock.release()

    async def add(self, records: Sequence[JobRecord]) -> None:
        """Write down the jobs of one request, all or none.

        Raises DuplicateKey if their key has jobs already, and OutcomeUnknown.
        """
        if records:
            rows = [{**_to_row(record), "pipeline": self._pipeline} for record in records]
            await self._writer.write(_ADD, rows, timeout=self._timeout)

    async def finish(self, ended: Sequence[job_pb2.Job], *, now: float) -> None:
        """Write down how jobs ended, together. A job that has ended before, or is not there, is left as it is.

        now: on the store's clock, by which they are kept.
        """
        rows = [
            {
                "job_id": job.id,
                "end_status": job.status,
                "end_at": job.completed_at,
                "keep_until": now + self._retain_seconds,
                "outcome": job.SerializeToString(),
            }
            for job in ended
        ]
        if rows:
            await self._writer.write(_FINISH, rows, timeout=self._timeout)

    async def record_kills(self, job_id: str, kills: int) -> None:
        """Write down that `kills` workers in all died while they ran this job."""
        await self._writer.write(_RECORD_KILLS, [{"job_id": job_id, "killed": kills}], timeout=self._timeout)

    async def delete(self, *job_ids: str) -> None:
        """Forget jobs. Unknown ones are no error."""
        if job_ids:
            await self._writer.write(_DELETE, [{"job_id": job_id} for job_id in job_ids], timeout=self._timeout)

    async def clock(self) -> tuple[str, float, float] | None:
        """What `keep_clock` was given last: boot id, base, lag."""
        columns = (pipelines.c.boot_id, pipelines.c.clock_base, pipelines.c.clock_lag)
        query = select(*columns).where(pipelines.c.name == self._pipeline)
        found = await self._run(lambda connection: connection.execute(query).one_or_none())
        return None if found is None or None in tuple(found) else (found[0], found[1], found[2])

    async def keep_clock(self, boot_id: str, base: float, lag: float) -> None:
        """What of the store's clock has to outlive the router."""
        row = {"of_pipeline": self._pipeline, "boot": boot_id, "base": base, "lag": lag}
        await self._writer.write(_KEEP_CLOCK, [row], timeout=self._timeout)

    async def expire(self, now: float, *, limit: int = MAX_LISTED) -> _Records:
        """At most `limit` ended jobs whose time to be kept is over. now: on the store's clock."""
        due = self._jobs().where(jobs.c.expires_at <= now).order_by(jobs.c.expires_at).limit(limit)
        return await self._read(due)

    async def unfinished(self) -> _Records:
        """All jobs that have not ended, in the order in which they were accepted."""
        query = self._jobs().where(jobs.c.status.in_(UNFINISHED)).order_by(jobs.c.seq)
        return await self._read(query)

    async def get(self, job_id: str) -> JobRecord | None:
        found = await self._read(self._jobs().where(jobs.c.id == job_id))
        return found[0] if found else None

    async def list(self, status: job_pb2.JobStatus.ValueType | None = None, limit: int = 100) -> _Records:
        """The newest jobs first. status: as written down, so an unfinished job has the one it was added with."""
        query = self._jobs().order_by(jobs.c.seq.desc()).limit(min(limit, MAX_LISTED))
        if status is not None:
            query = query.where(jobs.c.status == status)
        return await self._read(query)

    async def page(
        self, output_format: str, limit: int, *, after: str | None = None, oldest_first: bool = False
    ) -> _Records:
        """Jobs of one output format, by acceptance. after: begin beyond this job; with one that is not there, none."""
        query = self._jobs().where(jobs.c.output_format == output_format).limit(min(limit, MAX_LISTED))
        if after is not None:
            place = select(jobs.c.seq).where(jobs.c.id == after).scalar_subquery()
            query = query.where(jobs.c.seq > place if oldest_first else jobs.c.seq < place)
        return await self._read(query.order_by(jobs.c.seq if oldest_first else jobs.c.seq.desc()))

    async def by_idempotency_key(self, key: str) -> _Records:
        """The jobs that were made under `key`, in their order in the request; none if it is new."""
        return await self._read(_of_key(self._pipeline, key))

    async def known(self, job_ids: Sequence[str]) -> set[str]:
        """Those of these jobs that are here."""
        query = select(jobs.c.id).where(jobs.c.pipeline == self._pipeline, jobs.c.id.in_(job_ids))
        return set(await self._run(partial(_first_column, query)))

    async def shares_inputs(self, record: JobRecord) -> bool:
        """Whether another job reads the files that this one reads, as those of one request do."""
        keys = _input_keys(record)
        others = select(jobs.c.id).where(
            jobs.c.pipeline == self._pipeline, jobs.c.input_keys == keys, jobs.c.id != record.id
        )
        return keys is not None and bool(await self._run(partial(_first_column, others.limit(1))))

    async def input_keys(self) -> set[str]:
        """Keys of all files that any job reads."""
        query = select(jobs.c.input_keys).where(jobs.c.pipeline == self._pipeline, jobs.c.input_keys.is_not(None))
        return {key for keys in await self._run(partial(_first_column, query)) for key in keys.split("\n")}

    def _jobs(self) -> Select[Any]:
        return select(jobs).where(jobs.c.pipeline == self._pipeline)

    async def _read(self, query: Select[Any]) -> _Records:
        return await self._run(partial(_records, query))

    async def _run(self, read: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._engine.connect() as connection:
                return read(connection)

        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.get_running_loop().run_in_executor(self._readers, run)
        except TimeoutError as error:
            raise StoreUnavailable(f"{self._name} did not answer within {self._timeout:g} s") from error
        except RuntimeError as error:
            raise StoreUnavailable(f"{self._name} is closed") from error
        except SQLAlchemyError as error:
            raise StoreUnavailable(f"{self._name} refused a read: {getattr(error, 'orig', None) or error}") from error


def _open(url: str, pipeline: str) -> tuple[Engine, Opened]:
    engine = open_engine(url)
    lock = None
    try:
        lock = ServingLock.acquire(make_url(url), pipeline)
        return engine, Opened(lock, _secret(engine, pipeline))
    except BaseException as error:
        if lock is not None:
            lock.release()
        engine.dispose()
        if isinstance(error, SQLAlchemyError):
            raise StoreError(f"{describe(url)} cannot be written: {getattr(error, 'orig', None) or error}") from error
        raise


def _secret(engine: Engine, pipeline: str) -> bytes:
    with engine.begin() as connection:
        known = connection.execute(select(pipelines.c.secret).where(pipelines.c.name == pipeline)).scalar_one_or_none()
        if known is not None:
            return bytes(known)
        made = secrets.token_bytes(32)
        connection.execute(insert(pipelines).values(name=pipeline, secret=made))
        return made


def _of_key(pipeline: str, key: str) -> Select[Any]:
    of_key = select(jobs).where(jobs.c.pipeline == pipeline, jobs.c.idempotency_key == key)
    return of_key.order_by(jobs.c.request_index)


def _records(query: Select[Any], connection: Connection) -> list[JobRecord]:
    return [_to_record(row) for row in connection.execute(query).mappings()]


def _first_column(query: Select[Any], connection: Connection) -> _Keys:
    return list(connection.execute(query).scalars())


def _input_keys(record: JobRecord) -> str | None:
    return "\n".join(file.key for file in record.parameters.inputs) or None


def _to_row(record: JobRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "idempotency_key": record.idempotency_key,
        "request_index": record.index,
        "request_digest": record.digest,
        "parameters": record.parameters.SerializeToString(),
        "input_keys": _input_keys(record),
        "output_format": record.parameters.output_format,
        "model": record.model,
        "status": record.status,
        "created_at": record.created_at,
        "deadline_at": record.deadline_at,
        "completed_at": record.completed_at,
        "expires_at": record.expires_at,
        "kills": record.kills,
        "accepted_at": record.accepted_at,
        "target_seconds": record.target_seconds or None,
        "priority": record.priority,
        "tenant": record.tenant or None,
        "result": None if record.result is None else record.result.SerializeToString(),
    }


def _to_record(row: RowMapping) -> JobRecord:
    """A row of which a part cannot be read is still a job: it says so, and keeps nobody from the others."""
    damage: list[str] = []
    parameters = _parsed(stage_pb2.JobParameters, row, "parameters", damage) or stage_pb2.JobParameters()
    result = _parsed(job_pb2.Job, row, "result", damage)
    return JobRecord(
        id=row["id"],
        parameters=parameters,
        created_at=_number(row, "created_at", damage) or 0.0,
        deadline_at=_number(row, "deadline_at", damage) or 0.0,
        model=row["model"],
        idempotency_key=row["idempotency_key"],
        index=row["request_index"],
        digest=row["request_digest"],
        status=row["status"],
        kills=int(_number(row, "kills", damage) or 0),
        accepted_at=_number(row, "accepted_at", damage),
        target_seconds=_number(row, "target_seconds", damage) or 0.0,
        priority=_priority(row, damage),
        tenant=row["tenant"] or "",
        completed_at=_number(row, "completed_at", damage),
        expires_at=_number(row, "expires_at", damage),
        result=result,
        damage=", ".join(damage),
    )


M = TypeVar("M", stage_pb2.JobParameters, job_pb2.Job)


def _parsed(message: type[M], row: RowMapping, column: str, damage: list[str]) -> M | None:
    value = row[column]
    if value is None:
        return None
    try:
        return message.FromString(value)
    except (DecodeError, TypeError, ValueError):
        damage.append(column)
        return None


def _priority(row: RowMapping, damage: list[str]) -> job_pb2.Priority.ValueType:
    value = _number(row, "priority", damage)
    if value is None:
        return job_pb2.PRIORITY_STANDARD
    if not value or value not in job_pb2.Priority.values():
        damage.append("priority")
        return job_pb2.PRIORITY_STANDARD
    return job_pb2.Priority.ValueType(int(value))


def _number(row: RowMapping, column: str, damage: list[str]) -> float | None:
    """Columns of SQLite take what they are given, whatever their type."""
    value = row[column]
    if value is None or (isinstance(value, int | float) and math.isfinite(value)):
        return value
    damage.append(column)
    return None
