"""Who may connect to an engine's ports.

Mooncake listens on all of a machine's addresses, whatever it is told, and asks nobody who he is: who reaches one of its
ports can read and write all of the pool. A socket that listens can't be given another address, but it can be bound to a
network interface. An engine that serves takes what is sent to the interface that has the worker's own address; one that
only reads makes all its connections itself, and takes what its own machine (in a cluster, its own pod) sends to itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

LOOPBACK: Final = "lo"

_SIOCGIFCONF: Final = 0x8912
# An interface's name, a socket address (family, port, IPv4 address), padding; how long a list of these is, and where.
_REQUEST: Final = struct.Struct("16s4x4s16x")
_REQUESTS: Final = struct.Struct("iP")
_MOST: Final = 1024

_INTERFACES6: Final = Path("/proc/net/if_inet6")

Address = IPv4Address | IPv6Address


def confine(host: str) -> None:
    """Bind this process's listeners to the interface of `host`; empty: to the loopback interface.

    Raises OSError if no interface has the address, or the kernel (before Linux 5.7) lets root alone do it.
    """
    name = interface(host) if host else LOOPBACK
    for listener in _sockets():
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode() + b"\0")


def interface(host: str) -> str:
    """The name of the one that has this address. Raises OSError if there is none."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = {ip_address(str(entry[4][0]).partition("%")[0]) for entry in found}
    if any(address.is_loopback for address in addresses):
        return LOOPBACK
    for name, own in (*_interfaces4(), *_interfaces6()):
        if own in addresses:
            return name
    raise OSError(f"no network interface has the address {', '.join(map(str, addresses))}")


def _sockets() -> Iterator[socket.socket]:
    """The process's TCP sockets: an engine's listeners, and whoever was quick enough to connect to one."""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor by which the folder was read
            if not str(link.readlink()).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(link.name))) as found:
                if found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM:
                    yield found


def _interfaces4() -> Iterator[tuple[str, Address]]:
    found = ctypes.create_string_buffer(_MOST * _REQUEST.size)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = _REQUESTS.pack(len(found), ctypes.addressof(found))
        length, _ = _REQUESTS.unpack(fcntl.ioctl(any_socket, _SIOCGIFCONF, request))
    for name, address in _REQUEST.iter_unpack(found.raw[:length]):
        # A further address of an interface has a label behind its name.
        yield name.partition(b"\0")[0].decode().partition(":")[0], IPv4Address(address)


def _interfaces6() -> Iterator[tuple[str, Address]]:
    if _INTERFACES6.exists():  # not where IPv6 is switched off
        for line in _INTERFACES6.read_text().splitlines():
            address, *_, name = line.split()
            yield name, IPv6Address(bytes.fromhex(address))
