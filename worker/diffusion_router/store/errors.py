"""What can go wrong with a store, in the words of whoever has to mend it."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence

from diffusion_router.store.records import JobRecord


class StoreError(Exception):
    """The store cannot be used: the message names it and says what to do."""


class StoreUnavailable(StoreError):
    """The store did not carry out this operation: it refused, is busy, or did not answer in time."""


class OutcomeUnknown(StoreUnavailable):
    """A write was handed to the database, which did not say in time whether it is done.

    `outcome` ends once it has said so: with None, or with the error that `write` would have raised.
    """

    def __init__(self, message: str, outcome: Future[None]) -> None:
        super().__init__(message)
        self.outcome = outcome


class StoreServed(StoreError):
    """Another router serves these jobs."""


class DuplicateKey(StoreError):
    """These jobs were not added, because their idempotency key has jobs already: `records`, in their order."""

    def __init__(self, records: Sequence[JobRecord]) -> None:
        ids = ", ".join(record.id for record in records)
        super().__init__(f"Idempotency key {records[0].idempotency_key!r} belongs to {ids}")
        self.records = list(records)
