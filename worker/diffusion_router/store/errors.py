"""What can go wrong with a store, in the words of whoever has to mend it."""

from __future__ import annotations

from collections.abc import Sequence


class StoreError(Exception):
    """The store cannot be used: the message names it and says what to do."""


class StoreUnavailable(StoreError):
    """The store did not carry out this operation: it refused, or did not answer in time.

    After a time-out of a write, whether it was carried out is not known.
    """


class StoreBusy(StoreUnavailable):
    """As many writes wait as the store lets wait. Nothing was written."""


class DuplicateKey(StoreError):
    """These jobs were not added, because their idempotency key has jobs already.

    job_ids: the key's jobs, in their order; digest: of the request that made them.
    """

    def __init__(self, key: str, job_ids: Sequence[str], digest: str) -> None:
        super().__init__(f"Idempotency key {key!r} belongs to {', '.join(job_ids)}")
        self.key = key
        self.job_ids = list(job_ids)
        self.digest = digest
