"""Writes a pipeline's status where it differs, at a pace that the API server can bear, and tells of the news in it.

What a person waits for is written at once; how far it has got, less often: a hundred pods come up one by one. The more
pipelines come up together, the less often each tells of it: all of them make one such write in two seconds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import structlog

from diffusion_operator.cluster.client import ApiError, Cluster
from diffusion_operator.cluster.keys import Key
from diffusion_operator.cluster.kinds import PIPELINE
from diffusion_operator.cluster.recorder import Recorder
from diffusion_operator.cluster.store import Store
from diffusion_operator.reconcile.apply import Owner, Unfinished
from diffusion_operator.status import reasons

NEWS_SECONDS: Final = 1.0
PROGRESS_SECONDS: Final = 5.0
PROGRESS_EACH_SECONDS: Final = 2.0
_TROUBLE: Final = (
    reasons.RECONCILED,
    reasons.SCHEDULABLE,
    reasons.MODEL_READY,
    reasons.TRANSPORT_READY,
    reasons.SCALING_READY,
)

log = structlog.get_logger()


class Publisher:
    def __init__(self, cluster: Cluster, store: Store, recorder: Recorder) -> None:
        self._cluster = cluster
        self._store = store
        self._recorder = recorder
        self._written: dict[Key, float] = {}
        """When each pipeline's status was written last."""
        self._progressing: set[Key] = set()

    async def publish(self, owner: Owner, before: Mapping[str, Any], status: Mapping[str, Any]) -> float | None:
        """Seconds until this status may be written; None: it is, or need not be.

        `before`: the status as the API server has it. Raises Unfinished, ApiError, Unreachable.
        """
        if _is_true(_condition(status, reasons.PROGRESSING)):
            self._progressing.add(owner.key)
        else:
            self._progressing.discard(owner.key)
        if status == before:
            return None
        if (pause := self._pause(owner.key, before, status)) > 0:
            return pause
        try:
            answer = await self._cluster.apply_status(PIPELINE, owner.key.namespace, owner.key.name, owner.uid, status)
        except ApiError as error:
            if error.status == 404:
                log.info("status_of_what_is_gone", pipeline=str(owner.key))
                return None
            if error.status == 409:
                # Made anew under this name, of which the watch will tell; or others wrote at the same time.
                raise Unfinished(str(error)) from error
            raise
        self._written[owner.key] = time.monotonic()
        self._tell(owner, before, status)
        self._store.wrote(PIPELINE, answer)
        return None

    def forget(self, key: Key) -> None:
        self._written.pop(key, None)
        self._progressing.discard(key)

    def _pause(self, key: Key, before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
        together = PROGRESS_EACH_SECONDS * len(self._progressing)
        least = NEWS_SECONDS if _is_news(before, after) else max(PROGRESS_SECONDS, together)
        return least - (time.monotonic() - self._written.get(key, float("-inf")))

    def _tell(self, owner: Owner, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Events: that it became ready, that it ceased to be for no change that was asked for, and new trouble."""
        was, now = _condition(before, reasons.READY), _condition(after, reasons.READY)
        was_ready, progressing = _is_true(was), _is_true(_condition(after, reasons.PROGRESSING))
        if now is not None and _is_true(now) and not was_ready:
            self._recorder.record(owner.key, owner.uid, "Normal", now["reason"], now["message"])
        elif now is not None and not _is_true(now) and was_ready and not progressing:
            self._recorder.record(owner.key, owner.uid, "Warning", now["reason"], now["message"])
        for kind, reason in sorted(_trouble(after) - _trouble(before)):
            found = _condition(after, kind)
            if found is not None:
                self._recorder.record(owner.key, owner.uid, "Warning", reason, found["message"])


def _condition(status: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return next((found for found in status.get("conditions", ()) if found["type"] == name), None)


def _is_true(found: Mapping[str, Any] | None) -> bool:
    return found is not None and found["status"] == "True"


def _is_news(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether it became ready or ceased to be, what is wanted changed, or there is new trouble."""
    was, now = _condition(before, reasons.READY), _condition(after, reasons.READY)
    return (
        (was and was["status"]) != (now and now["status"])
        or before.get("observedGeneration") != after.get("observedGeneration")
        or not _trouble(after) <= _trouble(before)
    )


def _trouble(status: Mapping[str, Any]) -> set[tuple[str, str]]:
    found = (_condition(status, name) for name in _TROUBLE)
    return {(one["type"], one["reason"]) for one in found if one is not None and one["status"] == "False"}
