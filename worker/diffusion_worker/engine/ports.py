"""Who may connect to an engine's ports.

Mooncake listens on all of a machine's addresses, whatever it is told, and asks nobody who he is: who reaches one of its
ports can read and write all of the pool. What its listeners take is therefore filtered in the kernel, by the address
that a packet is sent to: an engine that serves takes what is sent to the worker's own address, and an engine that only
reads takes nothing, since it makes all its connections itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

_SO_ATTACH_FILTER: Final = 26
_SO_LOCK_FILTER: Final = 44

# Classic BPF: an instruction's code, where to jump if a comparison holds and if not, and its operand.
_INSTRUCTION: Final = struct.Struct("HBBI")
_PROGRAM: Final = struct.Struct("HL")
_LOAD_BYTE: Final = 0x30
_LOAD_WORD: Final = 0x20
_SHIFT_RIGHT: Final = 0x74
_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_NETWORK_HEADER: Final = 0xFFF00000
_ALL: Final = 0xFFFFFFFF

# Of the packet's network header: the destination's first byte.
_DESTINATION: Final = {4: 16, 6: 24}

Instruction = tuple[int, int, int, int]


def confine(host: str) -> None:
    """Let this process's listeners take only what is sent to `host`; empty: nothing.

    Raises OSError where the kernel has no such filters, or the host's name no address.
    """
    program = _taking(_addresses(host)) if host else [(_RETURN, 0, 0, 0)]
    code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*instruction) for instruction in program))
    for listener in _sockets():
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(program), ctypes.addressof(code)))
        listener.setsockopt(socket.SOL_SOCKET, _SO_LOCK_FILTER, 1)


def _taking(addresses: set[IPv4Address | IPv6Address]) -> list[Instruction]:
    """A filter that passes what is sent to one of the addresses."""
    program: list[Instruction] = []
    for address in sorted(addresses, key=str):
        words = [int.from_bytes(address.packed[at : at + 4], "big") for at in range(0, len(address.packed), 4)]
        program += [(_LOAD_BYTE, 0, 0, _NETWORK_HEADER), (_SHIFT_RIGHT, 0, 0, 4)]
        # Each comparison that does not hold leads behind this address's last instruction.
        program.append((_IF_EQUAL, 0, 2 * len(words) + 1, address.version))
        for index, word in enumerate(words):
            program.append((_LOAD_WORD, 0, 0, _NETWORK_HEADER + _DESTINATION[address.version] + 4 * index))
            program.append((_IF_EQUAL, 0, 2 * (len(words) - index) - 1, word))
        program.append((_RETURN, 0, 0, _ALL))
    return [*program, (_RETURN, 0, 0, 0)]


def _addresses(host: str) -> set[IPv4Address | IPv6Address]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return {ip_address(str(entry[4][0]).partition("%")[0]) for entry in found}


def _sockets() -> Iterator[socket.socket]:
    """The process's TCP sockets: an engine's listeners, and whoever was quick enough to connect to one."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor by which the folder was read
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(name))) as found:
                if found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM:
                    yield found
