"""An API server that fails on cue: stands between the operator under test and the real one.

It runs in a thread of its own, so that synchronous tests can steer it:

    with Proxy(cluster, "test:operator") as proxy:
        operator = start(proxy.kubeconfig)
        proxy.rule(Answer(409), matching("PATCH", "/status$"), times=3)
        proxy.rule(Freeze(forward_first=True), skip=11).wait(30)      # its 12th request from now on
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import aiohttp
from aiohttp import web
from yarl import URL

from testbed.controlplane.children import free_ports
from testbed.controlplane.cluster import Cluster

_T = TypeVar("_T")
_BODY_BYTES = 16 * 2**20
_CONTROL_SECONDS = 10.0
# Each side of the proxy has its own.
_HOP_BY_HOP = frozenset(
    {"connection", "content-length", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}
)
_REASONS = {
    400: "BadRequest",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    at: float = field(default_factory=time.monotonic, compare=False)

    @property
    def is_watch(self) -> bool:
        return self.query.get("watch") in {"true", "1"}


@dataclass(frozen=True)
class Answer:
    """The API server says no, and does nothing."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "said by the test"

    def body(self) -> bytes:
        reason = _REASONS.get(self.status, "Unknown")
        status = {"code": self.status, "reason": reason, "message": self.message, "status": "Failure"}
        return json.dumps({"apiVersion": "v1", "kind": "Status", "metadata": {}, **status}).encode()


@dataclass(frozen=True)
class Expired:
    """A watch begins and says at once that its resource version is too old, as the real one does."""

    def line(self) -> bytes:
        return b'{"type":"ERROR","object":%s}\n' % Answer(410, message="too old resource version").body()


@dataclass(frozen=True)
class Cut:
    """The connection breaks: before the request arrives, or once it is carried out and before its answer arrives."""

    forward_first: bool = False


@dataclass(frozen=True)
class Freeze:
    """No answer to this request nor to any later one, and none is carried out, until `reset`: time to kill a process
    at exactly this request."""

    forward_first: bool = False


@dataclass(frozen=True)
class Hang:
    """No answer to this request, which is not carried out, as long as the client waits."""


@dataclass(frozen=True)
class Call:
    """Something else happens first; then the request is carried out."""

    function: Callable[[], object]


Fault = Answer | Expired | Cut | Freeze | Hang | Call


def matching(method: str = "", path: str = "", *, watch: bool | None = None) -> Callable[[Request], bool]:
    """By method ("" is any), by a regular expression that the path contains, and by whether it is a watch."""
    pattern = re.compile(path)

    def matches(request: Request) -> bool:
        return (
            method in {"", request.method}
            and pattern.search(request.path) is not None
            and watch in {None, request.is_watch}
        )

    return matches


ANY = matching()


@dataclass(eq=False)
class Rule:
    fault: Fault
    when: Callable[[Request], bool]
    skip: int
    times: int | None
    hits: int = 0
    _hit: threading.Event = field(default_factory=threading.Event)

    @property
    def was_hit(self) -> bool:
        """And what its fault carries out first is carried out."""
        return self._hit.is_set()

    def wait(self, seconds: float) -> None:
        """Until it was hit for the first time."""
        assert self._hit.wait(seconds), f"not within {seconds:.0f} s: a request that meets {self.fault}"

    def meets(self, request: Request) -> bool:
        if self.times == self.hits or not self.when(request):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.hits += 1
        return True

    def tell(self) -> None:
        self._hit.set()


class Proxy:
    """Who asks it is `user` to the API server. Without a user, clients show their own bearer tokens."""

    def __init__(self, cluster: Cluster, user: str | None = None) -> None:
        (self.port,) = free_ports(1)
        self.url = f"https://127.0.0.1:{self.port}"
        self.requests: list[Request] = []
        self._server_tls = cluster.server_tls(f"proxy-{self.port}", "127.0.0.1")
        self._upstream = cluster.url
        self._client_tls = ssl.create_default_context(cafile=cluster.authority.certificate.file)
        if user is not None:
            self.kubeconfig = cluster.kubeconfig_of(user, server=self.url)
            certificate = cluster.authority.issue(f"proxy-{self.port}-client", user)
            self._client_tls.load_cert_chain(certificate.file, certificate.key)
        self._rules: list[Rule] = []
        self._watches: dict[asyncio.Transport, Request] = {}
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._started = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(_CONTROL_SECONDS), "the proxy did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    # Steering, from the test's thread

    def rule(
        self, fault: Fault, when: Callable[[Request], bool] = ANY, *, skip: int = 0, times: int | None = 1
    ) -> Rule:
        """The next `times` requests (None: all) that `when` holds for, after the first `skip` of them, meet `fault`.

        The first of several rules wins; a rule that loses does not count the request.
        """
        rule = Rule(fault, when, skip, times)
        self._call(self._add(rule))
        return rule

    def reset(self) -> None:
        """No rules; thawed; what was frozen or hangs is cut."""
        self._call(self._reset())

    def down(self) -> None:
        """No API server there: connections break and new ones are refused."""
        self._call(self._down())

    def up(self) -> None:
        self._call(self._up())

    def cut_watches(self) -> int:
        """Breaks all watches; returns how many."""
        return self._call(self._cut_watches())

    def watches(self, when: Callable[[Request], bool] = ANY) -> int:
        """Watches that are open now; one that has just ended is none until its client asks again."""
        return sum(map(when, list(self._watches.values())))

    def count(self, when: Callable[[Request], bool] = ANY, since: int = 0) -> int:
        """Requests met so far, after the first `since`."""
        return sum(map(when, self.requests[since:]))

    def _call(self, action: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(action, self._loop).result(_CONTROL_SECONDS)

    # In the proxy's own thread

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._thaw = asyncio.Event()
        self._frozen = False
        application = web.Application(client_max_size=_BODY_BYTES)
        application.router.add_route("*", "/{path:.*}", self._handle)
        # A client that hangs up ends its watch upstream.
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        connector = aiohttp.TCPConnector(ssl=self._client_tls, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        ) as self._session:
            await self._up()
            self._started.set()
            await self._end.wait()
            self._abort_all()
            await self._runner.cleanup()

    async def _add(self, rule: Rule) -> None:
        self._rules.append(rule)

    async def _reset(self) -> None:
        self._rules.clear()
        self._frozen = False
        self._thaw.set()
        self._thaw = asyncio.Event()

    async def _up(self) -> None:
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._server_tls, reuse_address=True)
        await self._site.start()

    async def _down(self) -> None:
        # First the socket, or clients would be back before it is closed.
        stopping = asyncio.ensure_future(self._site.stop())
        await asyncio.sleep(0)
        self._abort_all()
        await stopping

    def _abort_all(self) -> None:
        server = self._runner.server
        for connection in server.connections if server else ():
            if connection.transport is not None:
                connection.transport.abort()

    async def _cut_watches(self) -> int:
        watches = list(self._watches)
        for watch in watches:
            watch.abort()
        return len(watches)

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        request = Request(http.method, http.path, dict(http.query))
        self.requests.append(request)
        if self._frozen:
            return await self._silence(http)
        rule = next((rule for rule in self._rules if rule.meets(request)), None)
        if rule is None:
            return await self._forward(http, request)
        try:
            return await self._fault(rule, http, request)
        finally:
            rule.tell()

    async def _fault(self, rule: Rule, http: web.Request, request: Request) -> web.StreamResponse:
        match rule.fault:
            case Answer() as answer:
                return web.Response(
                    status=answer.status,
                    body=answer.body(),
                    headers={"Content-Type": "application/json", **answer.headers},
                )
            case Expired() as expired:
                return web.Response(body=expired.line(), headers={"Content-Type": "application/json"})
            case Cut(forward_first):
                if forward_first and not request.is_watch:
                    await self._carry_out(http)
                return _abort(http)
            case Freeze(forward_first):
                self._frozen = True
                if forward_first and not request.is_watch:
                    await self._carry_out(http)
                rule.tell()
                return await self._silence(http)
            case Hang():
                rule.tell()
                return await self._silence(http)
            case Call(function):
                await asyncio.to_thread(function)
                return await self._forward(http, request)

    async def _silence(self, http: web.Request) -> web.Response:
        await self._thaw.wait()
        return _abort(http)

    async def _forward(self, http: web.Request, request: Request) -> web.StreamResponse:
        try:
            return await (self._stream(http, request) if request.is_watch else self._carry_out(http))
        except aiohttp.ClientError:
            return _abort(http)  # the real server is gone: so is this one

    async def _carry_out(self, http: web.Request) -> web.Response:
        # A write that is on its way arrives, even if its sender dies meanwhile.
        return await asyncio.shield(self._exchange(http, await http.read()))

    async def _exchange(self, http: web.Request, body: bytes) -> web.Response:
        async with self._ask(http, body) as answer:
            return web.Response(status=answer.status, headers=_passed_on(answer.headers), body=await answer.read())

    async def _stream(self, http: web.Request, request: Request) -> web.StreamResponse:
        connection = http.transport
        if connection is None:
            return web.Response()
        async with self._ask(http, b"") as answer:
            stream = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
            stream.content_length = None
            self._watches[connection] = request
            try:
                await stream.prepare(http)
                with contextlib.suppress(ConnectionResetError):  # cut
                    async for chunk in answer.content.iter_any():
                        await stream.write(chunk)
                    await stream.write_eof()
            finally:
                self._watches.pop(connection, None)
            return stream

    def _ask(self, http: web.Request, body: bytes) -> contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]:
        url = URL(self._upstream + http.raw_path, encoded=True)
        headers = _passed_on(http.headers)
        return self._session.request(http.method, url, headers=headers, data=body or None, allow_redirects=False)


def _abort(http: web.Request) -> web.Response:
    """Breaks the connection that a request came by. The response is never sent."""
    if http.transport is not None:
        http.transport.abort()
    return web.Response()


def _passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}
