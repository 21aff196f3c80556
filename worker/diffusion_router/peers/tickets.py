"""Tickets: what a task shows to put its files, or to read those of its job.

A ticket can be made only by who knows the pipeline's secret, which is in the job store: so a task that an earlier life
of the router sent still has the right one, and nobody guesses one from ids that the registry lists.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

_BYTES: Final = 16


class Tickets:
    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def of(self, task_id: str) -> bytes:
        return hmac.digest(self._secret, task_id.encode(), sha256)[:_BYTES]

    def admits(self, task_id: str, ticket: bytes) -> bool:
        return hmac.compare_digest(self.of(task_id), ticket)
