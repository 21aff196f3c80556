"""HTTP connections that are bounded as an edge proxy bounds them.

uvicorn leaves open how long a head may be, how long a client may take for it, and how many connections there are. Its
protocol is kept, and what it lacks is added: what is over a bound is refused in words where an answer can be made, and
hung up on where none can. A newcomer always finds a place: the connection that has waited longest for its client to ask
for something gives way.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from diffusionpipeline.process.refusals import error_body

# Beyond those for requests: for probes, and for telling who comes then that it is too many.
SPARE_CONNECTIONS: Final = 64
# A client that sends the next request before it has its answer: this many are kept for it.
_PIPELINED: Final = 8
# For what is on its way when a connection is closed: the client would miss its answer if it were reset.
_LINGER_SECONDS: Final = 5.0
# The interim answer that every client skips; some take no more than five.
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_MAX_CONTINUES: Final = 4

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class HttpBounds:
    """max_connections: requests at once, and with SPARE_CONNECTIONS more the connections.

    header_bytes, header_seconds: of a request's first line and headers. body_seconds: from there to the body's end; the
    application holds it while it reads, the connection once it has answered. idle_seconds: without a request.
    """

    max_connections: int
    header_bytes: int = 64 << 10
    header_seconds: float = 15.0
    body_seconds: float = 60.0
    idle_seconds: float = 75.0


class Connections:
    """Those of one server."""

    def __init__(self, bounds: HttpBounds) -> None:
        self.bounds = bounds
        self._all: set[BoundedConnection] = set()
        # In the order of since when.
        self._waiting: dict[BoundedConnection, None] = {}
        self._refused: Counter[str] = Counter()

    def arrived(self, connection: BoundedConnection) -> None:
        self._all.add(connection)
        self.waits(connection)
        if len(self._all) > self.bounds.max_connections + SPARE_CONNECTIONS:
            longest = next(iter(self._waiting))
            self.refused("gave_way")
            self.left(longest)
            longest.transport.abort()

    def waits(self, connection: BoundedConnection) -> None:
        """For its client to ask for something, or to take what it was given."""
        if connection in self._all:
            self._waiting.setdefault(connection)

    def works(self, connection: BoundedConnection) -> None:
        self._waiting.pop(connection, None)

    def left(self, connection: BoundedConnection) -> None:
        self._all.discard(connection)
        self._waiting.pop(connection, None)

    def refused(self, code: str) -> None:
        self._refused[code] += 1

    def look_after(self) -> None:
        """To be called about every second."""
        for connection in list(self._all):
            connection.look_after()
        # One line for all, so that no client can fill the log.
        if self._refused:
            log.warning("http_refused", **self._refused)
            self._refused.clear()


class BoundedConfig(uvicorn.Config):
    """With what all connections share."""

    def __init__(self, app: Any, connections: Connections, **settings: Any) -> None:
        super().__init__(
            app,
            http=BoundedConnection,
            # Nothing here is a web socket, and as one a connection would leave these bounds.
            ws="none",
            # It warns of each request that is no HTTP, and so may a client of any.
            log_level="error",
            timeout_keep_alive=connections.bounds.idle_seconds,  # type: ignore[arg-type]  # is given to `call_later`
            **settings,
        )
        self.connections = connections


class _Refused(Exception):
    """Ends the parser's work."""


class BoundedConnection(HttpToolsProtocol):
    config: BoundedConfig

    def __init__(
        self,
        config: BoundedConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shared = config.connections
        self._bounds = config.connections.bounds
        self._head_bytes = 0
        self._held_bytes = 0
        """What came since the parser last told of anything: it keeps what is not complete."""
        self._due: float | None = None
        """Until when what the client has begun must be complete; None while it is the application's turn, or idle."""
        self._begun = False
        """Whether some of a head has come."""
        self._body_complete = True
        self._refused = False
        self._half_closed = False
        self._running: RequestResponseCycle | None = None
        self._continues = 0

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._allow(self._bounds.header_seconds)
        self._shared.arrived(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._shared.left(self)
        super().connection_lost(exc)
        # uvicorn tells the last request alone, which may not have begun.
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        if self._due is None and not self._answering:
            self._allow(self._bounds.header_seconds)
        self._held_bytes += len(data)
        super().data_received(data)
        if self._held_bytes > self._bounds.header_bytes:
            self._refuse_head()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's hangs up, which is what False says
        """A client that has asked, and says that it will ask no more, still gets its answer."""
        if self._refused or not self._answering or not self._body_complete:
            return False
        self.cycle.keep_alive = False
        self._half_closed = True
        self._ask_whether_gone()
        return True

    def look_after(self) -> None:
        """Whether the client has had its time."""
        if self.transport.is_closing():
            # Some of an answer is not read yet. That may take its time, but no newcomer's place.
            self._shared.waits(self)
        elif self._due is not None and self.loop.time() > self._due and not self._answering:
            if self._begun and not self._refused:
                text = f"The headers did not arrive within {self._bounds.header_seconds:g} s"
                self._refuse(HTTPStatus.REQUEST_TIMEOUT, text, code="timeout")
            else:
                self.transport.close()
        elif self._half_closed and self._answering:
            self._ask_whether_gone()

    # What the parser calls

    def on_message_begin(self) -> None:
        self._head_bytes = self._held_bytes = 0
        self._begun = True
        if not self._answering:
            self._allow(self._bounds.header_seconds)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + len(b": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= _PIPELINED:
            self._hang_up()
            raise _Refused
        self._due = None
        self._begun = self._body_complete = False
        self._shared.works(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._held_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._held_bytes = self._head_bytes = 0
        self._body_complete = True
        if not self._answering:
            self._allow(self._bounds.idle_seconds)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._answering:
            return
        self._shared.waits(self)
        # The rest of a body that was refused is read and dropped: who still sends would miss the answer otherwise.
        if not self._body_complete:
            self._allow(self._bounds.body_seconds)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPStatus.BAD_REQUEST, msg, code="invalid_http")

    @property
    def _answering(self) -> bool:
        """Whether a request is under way, its last one included."""
        return self.cycle is not None and not self.cycle.response_complete

    def _allow(self, seconds: float) -> None:
        self._due = self.loop.time() + seconds

    def _count(self, nbytes: int) -> None:
        self._held_bytes = 0
        self._head_bytes += nbytes
        if self._head_bytes > self._bounds.header_bytes:
            self._refuse_head()
            raise _Refused

    def _refuse_head(self) -> None:
        text = f"The request's headers are larger than the {self._bounds.header_bytes} bytes allowed here"
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text, code="headers_too_large")

    def _refuse(self, status: HTTPStatus, message: str, *, code: str) -> None:
        """Answer and close, once the client has; without an answer if that to an earlier request is under way."""
        if self._refused or self.transport.is_closing():
            return
        if self._answering:
            self._hang_up()
            return
        self._refused = True
        self._unset_keepalive_if_required()
        self._shared.refused(code)
        body = error_body(status, message, code=code)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.write_eof()
        self.flow.resume_reading()
        self._allow(_LINGER_SECONDS)

    def _hang_up(self) -> None:
        self._refused = True
        self._shared.refused("hung_up")
        self.transport.close()

    def _ask_whether_gone(self) -> None:
        """A client that has hung up looks like one that will ask no more, until something is sent to it."""
        waits = self._running is not None and not self._running.response_started
        if waits and self._continues < _MAX_CONTINUES and self.scope["http_version"] == "1.1":
            self._continues += 1
            self.transport.write(_CONTINUE)
