"""Lists and watches one kind of object, and keeps a sink true to it.

kopf watches the user's resources. Their children are ten times as many, and for those it will not do: it keeps some
20 kB for every object that it ever saw, and after a watch that had to start over (410) it never tells of what was
deleted in between. This keeps nothing itself; after each list the sink is told what is still there, and whatever the
stream does (cut, silent, refused, too old) it is taken up again.

A reflector that turns its loop is alive, even while the API server is not. `turned` is what a liveness probe looks at.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from diffusion_operator.cluster.client import ApiError, Cluster, Unreachable
from diffusion_operator.cluster.kinds import Kind, Object

# As client-go: long enough to be cheap, spread so that not all streams end together.
WATCH_SECONDS: Final = (300, 600)
FIRST_BACKOFF: Final = 0.2
LONGEST_BACKOFF: Final = 30.0
ABSENT_SECONDS: Final = 60.0
# Where no bookmarks come, a quiet stream is told from a dead one by its end alone: before cluster.SILENCE_SECONDS.
UNMARKED_WATCH_SECONDS: Final = (40, 60)

log = structlog.get_logger()


class Sink(Protocol):
    """What is kept of the objects. All calls come from the event loop and return at once."""

    def put(self, kind: Kind, item: Object) -> None: ...

    def remove(self, kind: Kind, item: Object) -> None: ...

    def retain(self, kind: Kind, namespace: str | None, uids: set[str], version: str) -> None:
        """At this version (empty: now), nothing but these was there, of this namespace (None: of all)."""


Heard = Callable[[str], None]
"""Told of the resource whose watch brought a sign of life."""
Restarted = Callable[[str, str], None]
"""Told of the resource, and why: broken, refused or expired (as `metrics.RESTARTS` has it)."""


class Reflector:
    """Use `run`, as a task. `optional`: the API may lack this kind, which then counts as no objects.

    `bookmarks`: the API server sends some to streams of this kind, about one a minute.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        namespace: str | None,
        sink: Sink,
        *,
        label_selector: str = "",
        field_selector: str = "",
        optional: bool = False,
        bookmarks: bool = True,
        heard: Heard = lambda resource: None,
        restarted: Restarted = lambda resource, reason: None,
    ) -> None:
        self.kind = kind
        self.namespace = namespace
        self.synced = asyncio.Event()
        """Set once the first list is complete."""
        self.turned = time.monotonic()
        """When the loop last did something: heard of the server, or gave up on it and tried again."""
        self._cluster = cluster
        self._sink = sink
        self._labels = label_selector
        self._fields = field_selector
        self._optional = optional
        self._bookmarks = bookmarks
        self._heard = heard
        self._restarted = restarted
        self._version = ""

    async def run(self) -> None:
        """Until cancelled."""
        backoff = FIRST_BACKOFF
        while True:
            wait = 0.0
            try:
                if not self._version:
                    await self._list()
                    backoff = FIRST_BACKOFF
                await self._watch()
                # The server ended the stream in good order: go on where it was.
                backoff = FIRST_BACKOFF
            except ApiError as error:
                wait = self._after(error, _spread(backoff))
                backoff = min(backoff * 2, LONGEST_BACKOFF)
            except Unreachable as error:
                log.info("watch_interrupted", resource=self.kind.plural, error=str(error))
                self._restarted(self.kind.plural, "broken")
                wait = _spread(backoff)
                backoff = min(backoff * 2, LONGEST_BACKOFF)
            # Waiting, too, is a turn, however long the server asks for it.
            self.turned = time.monotonic() + wait
            await asyncio.sleep(wait)
            self.turned = time.monotonic()

    def _after(self, error: ApiError, backoff: float) -> float:
        """Seconds to wait before going on."""
        if error.status == 404 and self._optional:
            self._hear()
            self._version = ""
            self._sink.retain(self.kind, self.namespace, set(), "")
            self.synced.set()
            return ABSENT_SECONDS
        if error.status == 410:
            log.info("watch_too_old", resource=self.kind.plural)
            self._restarted(self.kind.plural, "expired")
            self._version = ""
            return FIRST_BACKOFF
        log.warning("watch_refused", resource=self.kind.plural, status=error.status, error=str(error))
        self._restarted(self.kind.plural, "refused")
        if not error.transient:
            self._version = ""
        return max(backoff, error.retry_after or 0.0)

    async def _list(self) -> None:
        uids: set[str] = set()
        version = ""
        pages = self._cluster.pages(self.kind, self.namespace, label_selector=self._labels, field_selector=self._fields)
        async for page in pages:
            version = page.version
            self._hear()
            for item in page.items:
                uids.add(item["metadata"]["uid"])
                self._sink.put(self.kind, item)
        self._sink.retain(self.kind, self.namespace, uids, version)
        self._version = version
        self.synced.set()

    async def _watch(self) -> None:
        events = self._cluster.watch(
            self.kind,
            self.namespace,
            self._version,
            seconds=random.randint(*(WATCH_SECONDS if self._bookmarks else UNMARKED_WATCH_SECONDS)),
            label_selector=self._labels,
            field_selector=self._fields,
            opened=self._hear,
        )
        async for event in events:
            self._hear()
            item = event.object
            if event.type == "DELETED":
                self._sink.remove(self.kind, item)
            elif event.type in {"ADDED", "MODIFIED"}:
                self._sink.put(self.kind, item)
            self._version = item["metadata"]["resourceVersion"]

    def _hear(self) -> None:
        self.turned = time.monotonic()
        self._heard(self.kind.plural)


def _spread(seconds: float) -> float:
    """Streams that broke together do not come back together."""
    return seconds * random.uniform(0.5, 1.0)
