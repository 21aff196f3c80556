"""A server in a thread, on either event loop, and an application that does what its paths say."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from diffusionpipeline.process.connections import HttpBounds
from diffusionpipeline.process.serving import serve_http
from testbed.waiting import until

DEADLINE = 15.0
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """What an error says to programs; its form is that of all errors."""
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        code: str = error["code"]
        return code


class Client:
    """One connection, by hand."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self._stream = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, path: str, *headers: str, method: str = "GET") -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def answer(self) -> Answer:
        """The next one; interim answers are skipped."""
        while True:
            status = int(self._stream.readline().split()[1])
            headers = {}
            while line := self._stream.readline().strip():
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            if status >= 200:
                return Answer(status, headers, self._stream.read(int(headers["content-length"])))

    def get(self, path: str) -> Answer:
        self.ask(path)
        return self.answer()

    @property
    def ended(self) -> bool:
        """Waits for the server to hang up; False if it says anything more."""
        try:
            return self._stream.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._stream.close()
        self.socket.close()


@dataclass
class Site:
    """The application's side."""

    port: int = 0
    held: int = 0
    gone: int = 0
    release: Callable[[], None] = lambda: None
    clients: list[Client] = field(default_factory=list)

    def client(self) -> Client:
        self.clients.append(Client(self.port))
        return self.clients[-1]

    def holding(self, count: int) -> None:
        until(lambda: self.held == count, DEADLINE, f"{count} requests are held")


Serve = Callable[..., Site]


@pytest.fixture(params=LOOPS)
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    sites: list[Site] = []
    stops: list[Callable[[], object]] = []
    threads: list[threading.Thread] = []

    def start(**bounds: Any) -> Site:
        site = Site()
        sites.append(site)
        ready = threading.Event()

        async def run() -> None:
            loop, stop, released = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
            site.release = lambda: loop.call_soon_threadsafe(released.set)
            stops.append(lambda: loop.call_soon_threadsafe(stop.set))
            application = _application(site, released)
            limits = HttpBounds(**{"max_connections": 100, **bounds})
            async with serve_http(
                application, host="127.0.0.1", port=0, flag="--port", grace_seconds=1, bounds=limits
            ) as port:
                site.port = port
                ready.set()
                await stop.wait()

        def body() -> None:
            with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
                runner.run(run())

        thread = threading.Thread(target=body)
        thread.start()
        threads.append(thread)
        assert ready.wait(DEADLINE)
        return site

    yield start
    for site in sites:
        site.release()
        for client in site.clients:
            client.close()
    for stop in stops:
        stop()
    for thread in threads:
        thread.join()


def _application(site: Site, released: asyncio.Event) -> Any:
    async def respond(send: Any, body: bytes) -> None:
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def read(receive: Any) -> bytes:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                return body

    async def gone(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def application(scope: Any, receive: Any, send: Any) -> None:
        match scope["path"]:
            case "/echo":
                await respond(send, await read(receive))
            case "/hold":
                site.held += 1
                waits = [asyncio.ensure_future(released.wait()), asyncio.ensure_future(gone(receive))]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if not released.is_set():
                    site.gone += 1
                for wait in waits:
                    wait.cancel()
                site.held -= 1
                await respond(send, b"held")
            case "/large":
                await respond(send, bytes(6 << 20))
            case path:
                await respond(send, path.encode())

    return application
