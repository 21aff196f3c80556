"""The program: registers the worker's pool, serves it, and reads from one peer on request.

It inherits the pool as a file and one end of a SOCK_SEQPACKET pair, over which it says that it is ready and then
answers requests to read. It ends when the pair is closed, and is killed when the worker ends.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import signal
import socket
import sys
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import xxhash

from diffusion_worker.engine.guard import Engine, EngineUnavailableError, Reading
from diffusion_worker.engine.url import PoolUrl
from diffusion_worker.engine.wire import DATAGRAM, PING, REPLY, REQUEST, Outcome

# A read is split, so that several of the engine's lanes are busy and its first bytes are hashed while its last are on
# the way: measured over TCP, up to a third less time than pieces of 4 MiB.
SPLIT: Final = 1 << 19
IN_FLIGHT: Final = 16

# Bytes that came are hashed in steps, so that other pulls go on.
HASHED: Final = 1 << 19

FIRST_PAUSE: Final = 50e-6
LONGEST_PAUSE: Final = 1e-3

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_TIMERSLACK: Final = 29


@dataclass
class Pull:
    """One request: which of its pieces are on the way, and how far its digest is."""

    id: int
    offset: int
    remote: int
    length: int
    hashed: int
    url: PoolUrl
    submitted: int = 0
    pieces: deque[tuple[Reading, int]] = field(default_factory=deque)
    digest: xxhash.xxh3_64 = field(default_factory=xxhash.xxh3_64)


class Puller:
    """Moves any number of pulls on, a little at a time."""

    def __init__(self, engine: Engine, pool: memoryview, address: int) -> None:
        self._engine = engine
        self._pool = pool
        self._address = address
        self.pulls: list[Pull] = []

    def step(self) -> list[bytes]:
        """Replies for the pulls that have ended."""
        replies, going = [], []
        for pull in self.pulls:
            try:
                outcome = self._advance(pull)
            except ValueError:
                outcome = Outcome.OUT_OF_RANGE
            if outcome is None:
                going.append(pull)
            else:
                replies.append(REPLY.pack(pull.id, outcome, pull.digest.intdigest()))
        self.pulls = going
        return replies

    def _advance(self, pull: Pull) -> Outcome | None:
        """Submit what may be on the way, take note of what came, hash it. None if there is more to come."""
        while True:
            if not self._submit(pull):
                return Outcome.FAILED
            if not pull.pieces:
                return Outcome.OK
            reading, end = pull.pieces[0]
            done = self._engine.poll(reading)
            if done is None:
                return None
            if not done:
                return Outcome.FAILED
            pull.pieces.popleft()
            if not self._submit(pull):
                return Outcome.FAILED
            self._hash(pull, end)

    def _submit(self, pull: Pull) -> bool:
        """Keep the lanes busy. False if the engine refused."""
        while pull.submitted < pull.length and len(pull.pieces) < IN_FLIGHT:
            length = min(SPLIT, pull.length - pull.submitted)
            reading = self._engine.submit(
                pull.url,
                local=self._address + pull.offset + pull.submitted,
                remote=pull.remote + pull.submitted,
                length=length,
            )
            if reading is None:
                return False
            pull.submitted += length
            pull.pieces.append((reading, pull.submitted))
        return True

    def _hash(self, pull: Pull, end: int) -> None:
        while pull.hashed < end:
            upto = min(end, pull.hashed + HASHED)
            pull.digest.update(self._pool[pull.offset + pull.hashed : pull.offset + upto])
            pull.hashed = upto


def serve(control: socket.socket, puller: Puller) -> None:
    """Until the worker closes its end. Sleeps in `select`, so that a new request is taken at once."""
    pause = FIRST_PAUSE
    while True:
        readable, _, _ = select.select([control], [], [], pause if puller.pulls else None)
        if readable:
            datagram = control.recv(DATAGRAM)
            if not datagram:
                return
            if len(datagram) == PING.size:
                control.send(REPLY.pack(*PING.unpack(datagram), Outcome.OK, 0))
                continue
            url = PoolUrl.parse(datagram[REQUEST.size :].decode())
            pull_id, offset, remote, length, skipped = REQUEST.unpack_from(datagram)
            puller.pulls.append(Pull(pull_id, offset, remote, length, skipped, url))
            pause = FIRST_PAUSE
        else:
            pause = min(1.5 * pause, LONGEST_PAUSE)
        for reply in puller.step():
            control.send(reply)
            pause = FIRST_PAUSE


def main() -> None:
    settings = json.loads(sys.argv[1])
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(_PR_SET_TIMERSLACK, 1000)
    # The worker decides when this process ends, also when a terminal's Ctrl-C reaches the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    control = socket.socket(fileno=settings.pop("control"))
    if os.getppid() != settings.pop("parent"):
        return
    memory = mmap.mmap(settings.pop("pool"), settings["size"])
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    try:
        engine = Engine.open(address=address, **settings)
    except EngineUnavailableError as error:
        control.send(json.dumps({"error": str(error)}).encode()[:DATAGRAM])
    else:
        control.send(json.dumps({"url": str(engine.url)}).encode())
        serve(control, Puller(engine, memoryview(memory), address))
    # Not through the interpreter's end: destroying an engine takes a second at best.
    os._exit(0)


if __name__ == "__main__":
    main()
