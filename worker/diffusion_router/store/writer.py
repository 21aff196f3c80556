"""Group commit: all writes that wait become one transaction.

A commit that is on disk costs one flush whatever it holds. One thread with one connection takes what has gathered while
the previous commit ran, so that a lone write waits for one flush and many share it. A thread and not an asyncio driver,
because that driver is a thread too, with a hand-over for every statement: 1.2 ms of CPU a commit, against 0.5 ms.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError, SQLAlchemyError

from diffusion_router.store.errors import OutcomeUnknown, StoreUnavailable

MAX_PENDING: Final = 4096
MAX_BATCH: Final = 512

Row = dict[str, Any]


@dataclass(frozen=True)
class Statement:
    """What all writes of one kind have in common. Within a transaction kinds run by rising `rank`."""

    rank: int
    clause: Any
    on_conflict: Callable[[Connection, Sequence[Row]], Exception | None] = field(
        default=lambda _connection, _rows: None
    )
    """Makes the error for the caller out of a broken constraint, by looking into the database."""


@dataclass(frozen=True, eq=False)
class _Write:
    statement: Statement
    rows: Sequence[Row]
    done: asyncio.Future[None]


class Writer:
    """Owned by one event loop; `write` may be called by any number of its tasks.

    One batch is with the thread, the rest gathers on the loop: were each write handed over by itself, the thread would
    wake for the first of many and commit it alone.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Write] = []
        self._in_flight = 0
        self._send_is_due = False
        self._closed = False
        self._batches: SimpleQueue[list[_Write] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="job-store-writer", daemon=True)
        self._thread.start()

    async def write(self, statement: Statement, rows: Sequence[Row], *, timeout: float) -> None:
        """Return once all of `rows` are committed, together. Raises StoreUnavailable, or what `on_conflict` makes.

        A write that still waits for its turn when its time is over is taken back; of one that is with the database
        nobody knows, and OutcomeUnknown is raised.
        """
        if self._closed:
            raise StoreUnavailable(f"{self._name} is closed")
        pending = len(self._waiting) + self._in_flight
        if pending >= MAX_PENDING:
            raise StoreUnavailable(f"{self._name} has {pending} writes waiting, as many as may wait. Try again later")
        write = _Write(statement, rows, self._loop.create_future())
        # Nobody may be left to hear of a failure.
        write.done.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._waiting.append(write)
        self._send_soon()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(write.done)
        except TimeoutError as error:
            text = f"{self._name} did not commit within {timeout:g} s"
            if write not in self._waiting:
                raise OutcomeUnknown(f"{text}; whether it still will is not known", write.done) from error
            self._waiting.remove(write)
            raise StoreUnavailable(f"{text}. Check its disk") from error

    async def close(self, timeout: float) -> None:
        """Commit what waits, then end the thread; one that the disk holds up longer is left to itself."""
        if not self._closed:
            self._closed = True
            if self._waiting:
                self._batches.put(self._waiting)
            self._waiting = []
            self._batches.put(None)
        await asyncio.to_thread(self._thread.join, timeout)

    def _send_soon(self) -> None:
        """At the end of this turn of the loop, so that all tasks that it runs can join."""
        if self._waiting and not self._in_flight and not self._send_is_due:
            self._send_is_due = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._send_is_due = False
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        if batch:
            self._in_flight = len(batch)
            self._batches.put(batch)

    def _resolve(self, batch: Sequence[_Write], outcomes: Sequence[Exception | None]) -> None:
        self._in_flight = 0
        for write, outcome in zip(batch, outcomes, strict=True):
            if write.done.done():
                continue
            if outcome is None:
                write.done.set_result(None)
            else:
                write.done.set_exception(outcome)
        self._send_soon()

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            outcomes = self._commit(batch)
            self._loop.call_soon_threadsafe(self._resolve, batch, outcomes)

    def _commit(self, batch: Sequence[_Write]) -> list[Exception | None]:
        try:
            with self._engine.begin() as connection:
                for statement, rows in _by_statement(batch):
                    connection.execute(statement.clause, rows)
        # Of any kind: whoever waits has to hear of it, and the thread has to live on.
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, OperationalError | InterfaceError):
                # One write's fault is no other's: each alone, in the order they came.
                return [self._commit([write])[0] for write in batch]
            return [self._explain(batch[0], error)] * len(batch)
        return [None] * len(batch)

    def _explain(self, write: _Write, error: Exception) -> Exception:
        if isinstance(error, IntegrityError):
            try:
                with self._engine.connect() as connection:
                    conflict = write.statement.on_conflict(connection, write.rows)
            except SQLAlchemyError as second:
                error = second
            else:
                if conflict is not None:
                    return conflict
        cause = getattr(error, "orig", None) or error
        return StoreUnavailable(f"{self._name} refused a write: {cause}. Check its disk, permissions and connection")


def _by_statement(batch: Sequence[_Write]) -> Iterable[tuple[Statement, list[Row]]]:
    """One execution a kind: a driver takes many rows far faster than many statements."""
    grouped: dict[int, tuple[Statement, list[Row]]] = {}
    for write in batch:
        grouped.setdefault(write.statement.rank, (write.statement, []))[1].extend(write.rows)
    return [grouped[rank] for rank in sorted(grouped)]
