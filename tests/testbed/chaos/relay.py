"""The network between workers and their router, which can be cut, or hold back all that is said."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class Relay:
    """Passes connections on to `target` (host, port)."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def stop(self) -> None:
        self._flows.set()
        if self._server is not None:
            self._server.close()
        self.cut()

    def cut(self) -> None:
        """All connections end now; new ones are made as before."""
        for writer in list(self._writers):
            writer.transport.abort()

    def hold(self) -> None:
        """Nothing that is said arrives, and nobody is told."""
        self._flows.clear()

    def let_go(self) -> None:
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            await self._flows.wait()
            answers, there = await asyncio.open_connection(*self._target)
            self._writers.add(there)
            ways = ((reader, there), (answers, writer))
            both = [asyncio.create_task(self._pass_on(*way)) for way in ways]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for one in both:
                one.cancel()
        except (OSError, asyncio.CancelledError):
            # Python 3.11 logs a connection's task that is cancelled as an error.
            return
        finally:
            for end in (writer, there):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
