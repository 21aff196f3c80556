"""Free ports for processes that, as pods, would each have an address of their own.

They lie below 32768: above it Linux takes ports for outgoing connections, and one of those could sit on the port of a
process that is just being restarted.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable
from typing import Final

LOOPBACK: Final = "127.0.0.1"
_FIRST: Final = 20000
_LAST: Final = 32767


class NoFreePortError(OSError):
    """A port that was asked for, or every port of the range, is taken."""


def is_free(port: int) -> bool:
    """Whether a process could listen on this port of the loopback address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int, *, avoid: Iterable[int] = ()) -> list[int]:
    """Ports that nothing listens on, none of `avoid`. The start is random, so that two pipelines rarely meet."""
    taken = set(avoid)
    found: list[int] = []
    size = _LAST - _FIRST + 1
    start = random.randrange(size)
    for offset in range(size):
        if len(found) == count:
            return found
        port = _FIRST + (start + offset) % size
        if port not in taken and is_free(port):
            found.append(port)
    if len(found) == count:
        return found
    raise NoFreePortError(f"fewer than {count} free ports between {_FIRST} and {_LAST}: end some other programs")
