"""What can go wrong with a store, in the words of whoever has to mend it."""

from __future__ import annotations

from collections.abc import Sequence

from diffusion_router.store.records import JobRecord


class StoreError(Exception):
    """The store cannot be used: the message names it and says what to do."""


class StoreUnavailable(StoreError):
    """The store did not carry out this operation: it refused, is busy, or did not answer in time.

    After a time-out of a write, whether it was carried out is not known.
    """


class DuplicateKey(StoreError):
    """These jobs were not added, because their idempotency key has jobs already: `records`, in their order."""

    def __init__(self, records: Sequence[JobRecord]) -> None:
        ids = ", ".join(record.id for record in records)
        super().__init__(f"Idempotency key {records[0].idempotency_key!r} belongs to {ids}")
        self.records = list(records)
