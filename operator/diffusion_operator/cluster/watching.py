"""The user's own resources: kopf watches them, and all that its handlers do is to put them into the store.

Nothing of kopf's change detection is used, which would write annotations and finalizers to the user's object: this is
its lowest level, and what makes the operator's decisions is the queue.

kopf says nothing about the health of its streams. So every resync, which lists everything, also looks whether the
highest version that it saw is told by the stream within a while. And its streams end early: each that the API server
opens anew is a sign of life, which kopf's HTTP session tells of, also while nothing happens to the resources.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import kopf

from diffusion_operator.api import GROUP, VERSION
from diffusion_operator.cluster.client import CONNECT_SECONDS, PAGE, REQUEST_SECONDS, Cluster
from diffusion_operator.cluster.kinds import PIPELINE, SCALER, Kind, Object
from diffusion_operator.cluster.reflector import Heard
from diffusion_operator.cluster.store import Store, version_of

WATCHED: Final = (PIPELINE, SCALER)
LAG_SECONDS: Final = 60.0
STREAM_SECONDS: Final = 120


class _Backoffs:
    """kopf's pauses between attempts at the API server. Without an end: a server that is down comes back."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.2, 0.5, 1, 2, 3, 5)
        while True:
            yield 5.0


class Watching:
    """Use `run`, as a task; `resync` at start and every now and then."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        scopes: Sequence[str | None],
        *,
        heard: Heard = lambda resource: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._scopes = scopes
        self._tell_heard = heard
        self._clock = clock
        self._told: dict[Kind, int] = {}
        """The highest version that kopf's stream of a kind has told of."""
        self._expected: dict[Kind, tuple[int, float]] = {}
        """The version that a resync saw, and until when the stream has time to tell of it."""
        self._runs = False

    def problem(self) -> str:
        """For the liveness probe; empty: none."""
        now = self._clock()
        stuck = [
            str(kind)
            for kind, (version, deadline) in self._expected.items()
            if now > deadline and self._told.get(kind, 0) < version
        ]
        return f"the watch of {', '.join(stuck)} brings nothing any more" if stuck else ""

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop`, or a signal that asks the process to end."""
        self._runs = True
        await kopf.operator(
            registry=self._registry(),
            settings=_settings(),
            standalone=True,
            # Without peers of no use; but by default the user is asked for their name, and a container's has none.
            identity="diffusion-operator",  # type: ignore[arg-type]  # a NewType that kopf does not export
            clusterwide=self._scopes == (None,),
            namespaces=[scope for scope in self._scopes if scope is not None],
            stop_flag=stop,
        )

    async def resync(self) -> None:
        """Make the store as the API server is. Raises ApiError, Unreachable."""
        for kind in WATCHED:
            highest = 0
            for scope in self._scopes:
                uids: set[str] = set()
                version = ""
                async for page in self._cluster.pages(kind, scope):
                    version = page.version
                    for item in page.items:
                        uids.add(item["metadata"]["uid"])
                        highest = max(highest, version_of(item))
                        self._store.put(kind, item)
                self._store.retain(kind, scope, uids, version)
            if self._runs:
                self._expect(kind, highest)

    def _expect(self, kind: Kind, highest: int) -> None:
        """The stream is to tell of this version. One that is late already gets no more time because of it."""
        late, _ = self._expected.get(kind, (0, 0.0))
        # With `highest` below, the object of that version is gone, and nothing need tell of it any more.
        if not self._told.get(kind, 0) < late <= highest:
            self._expected[kind] = (highest, self._clock() + LAG_SECONDS)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.AiohttpSession:
            return _session(await connection(self._cluster), self._tell_heard)

        def watch(kind: Kind) -> None:
            @kopf.on.event(GROUP, VERSION, kind.plural, registry=registry, id=kind.plural)
            async def heard(event: Any, **_: Any) -> None:
                self._heard(kind, event["type"], event["object"])

        for kind in WATCHED:
            watch(kind)
        return registry

    def _heard(self, kind: Kind, type: str | None, item: Object) -> None:
        self._tell_heard(kind.plural)
        self._told[kind] = max(self._told.get(kind, 0), version_of(item))
        if type == "DELETED":
            self._store.remove(kind, item)
        else:
            self._store.put(kind, item)


class Access(kopf.ConnectionInfo):
    """Trusts whom the API client does: Python 3.13 by default asks of authorities what many clusters' own lack."""

    def as_ssl_context(self) -> ssl.SSLContext:
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


@dataclass(frozen=True, kw_only=True)
class _Session(kopf.AiohttpSession):
    """Sessions of the same access are equal: kopf does not try again what it was refused with."""

    access: Access
    aiohttp_session: aiohttp.ClientSession = field(compare=False)


def _session(access: Access, opened: Heard) -> _Session:
    """As kopf would make it; `opened` is told the resource of each watch that the API server begins to answer."""

    async def ended(_session: object, _context: object, request: aiohttp.TraceRequestEndParams) -> None:
        if request.response.ok and "watch" in request.url.query:
            opened(request.url.name)

    trace = aiohttp.TraceConfig()
    trace.on_request_end.append(ended)
    http = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=access.as_ssl_context()),
        headers=access.as_http_headers(),
        trace_configs=[trace],
    )
    return _Session(server=access.server, access=access, aiohttp_session=http)


async def connection(cluster: Cluster) -> Access:
    """The operator's own access, for kopf. Read anew each time kopf asks, as tokens expire."""
    configuration = cluster.configuration
    header = await configuration.get_api_key_with_prefix("BearerToken")
    scheme, _, token = (header or "").rpartition(" ")
    return Access(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        scheme=scheme or None,
        token=token or None,
    )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # Definitions and namespaces are known; watching them would need rights on the whole cluster.
    settings.scanning.disabled = True
    settings.networking.error_backoffs = _Backoffs()
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.networking.connect_timeout = CONNECT_SECONDS
    settings.watching.connect_timeout = CONNECT_SECONDS
    settings.watching.server_timeout = STREAM_SECONDS
    settings.watching.chunk_size = PAGE
    settings.queueing.idle_timeout = 1.0
    return settings
