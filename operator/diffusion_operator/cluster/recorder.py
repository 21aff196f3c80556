"""Events on pipelines: what a person wants to be told of (`kubectl describe dpipe/x`).

Telling must never hold up doing: events go to a bounded queue and are sent by a task of their own. The same event again
within a while raises the count of the first one, as Kubernetes' own recorder does, so that what happens every minute
does not fill the list.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from diffusion_operator.api import API_VERSION, KIND
from diffusion_operator.cluster.client import FIELD_MANAGER, ApiError, Cluster, Unreachable
from diffusion_operator.cluster.keys import Key
from diffusion_operator.cluster.kinds import EVENT

WAITING: Final = 1000
REMEMBERED: Final = 4096
SAME_SECONDS: Final = 600.0
_MESSAGE_CHARACTERS: Final = 1024
_ATTEMPTS: Final = 3
_PAUSE_SECONDS: Final = 2.0

log = structlog.get_logger()


@dataclass(frozen=True)
class _Told:
    key: Key
    uid: str
    type: str
    reason: str
    message: str


@dataclass
class _Sent:
    name: str
    count: int
    first: float


class Recorder:
    """`record` from anywhere on the loop; `run` as a task."""

    def __init__(self, cluster: Cluster, instance: str) -> None:
        self._cluster = cluster
        self._instance = instance
        self._queue: asyncio.Queue[_Told] = asyncio.Queue(WAITING)
        self._sent: OrderedDict[_Told, _Sent] = OrderedDict()

    def record(self, key: Key, uid: str, type: str, reason: str, message: str) -> None:
        """`type` is Normal or Warning. With too many waiting it is dropped, and logged."""
        told = _Told(key, uid, type, reason, message[:_MESSAGE_CHARACTERS])
        try:
            self._queue.put_nowait(told)
        except asyncio.QueueFull:
            log.warning("event_dropped", pipeline=str(key), reason=reason, message=message)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            told = await self._queue.get()
            for attempt in range(_ATTEMPTS):
                try:
                    await self._send(told)
                    break
                except (ApiError, Unreachable) as error:
                    hopeless = isinstance(error, ApiError) and not error.transient
                    if hopeless or attempt == _ATTEMPTS - 1:
                        log.warning("event_not_sent", pipeline=str(told.key), reason=told.reason, error=str(error))
                        break
                    await asyncio.sleep(_PAUSE_SECONDS)

    async def _send(self, told: _Told) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        sent = self._sent.get(told)
        if sent is not None and time.monotonic() - sent.first < SAME_SECONDS:
            try:
                patch = {"count": sent.count + 1, "lastTimestamp": now}
                await self._cluster.merge(EVENT, told.key.namespace, sent.name, patch)
                sent.count += 1
                return
            except ApiError as error:
                if error.status != 404:
                    raise
        name = _name(told, now)
        await self._cluster.create(EVENT, self._event(told, name, now))
        self._sent[told] = _Sent(name, 1, time.monotonic())
        self._sent.move_to_end(told)
        while len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)

    def _event(self, told: _Told, name: str, now: str) -> dict[str, object]:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": told.key.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "namespace": told.key.namespace,
                "name": told.key.name,
                "uid": told.uid,
            },
            "type": told.type,
            "reason": told.reason,
            "message": told.message,
            "count": 1,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._instance,
        }


def _name(told: _Told, now: str) -> str:
    digest = hashlib.sha256(f"{told}{now}{time.time_ns()}".encode()).hexdigest()[:16]
    return f"{told.key.name}.{digest}"
