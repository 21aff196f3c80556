"""Where a server listens: a pod has addresses of IPv4, of IPv6 or of both, on a kernel that may have no IPv6."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import platform
import socket
import struct
import subprocess
import sys
from typing import Any, Final

import grpc
import pytest

from diffusionpipeline.process.addresses import host_port, listener
from diffusionpipeline.process.channels import PROBES_SERVER, listen
from diffusionpipeline.process.connections import HttpBounds
from diffusionpipeline.process.serving import serve_http

IPV4, IPV6 = "127.0.0.1", "::1"
WILDCARDS = ("0.0.0.0", "::")

_SOCKET_CALL: Final = {"x86_64": 41, "aarch64": 198}[platform.machine()]
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2


async def answering(host: str) -> set[str]:
    """By which of this machine's own addresses an HTTP and a gRPC server of this host are reached."""
    server = grpc.aio.server(options=PROBES_SERVER)
    port = listen(server, host, 0, flag="--grpc-port")
    await server.start()
    bounds = HttpBounds(max_connections=4)
    try:
        async with serve_http(_nothing, host=host, port=0, flag="--port", grace_seconds=1, bounds=bounds) as http:
            found = [_letting_in(each) for each in (port, http)]
    finally:
        await server.stop(0)
    # Other processes may have the same port at the address that these left free: they still answer there.
    found = [addresses - _letting_in(each) for addresses, each in zip(found, (port, http), strict=True)]
    assert found[0] == found[1], "HTTP and gRPC"
    return found[0]


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nobody asks")


def _letting_in(port: int) -> set[str]:
    return {address for address in (IPV4, IPV6) if _lets_in(address, port)}


def _lets_in(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=5) as connection:
            # A connection from a port that the kernel chose may meet itself there.
            return bool(connection.getsockname() != connection.getpeername())
    except OSError as error:
        assert error.errno in (errno.ECONNREFUSED, errno.EAFNOSUPPORT)
        return False


@pytest.mark.parametrize("host", WILDCARDS)
async def test_either_wildcard_is_every_address_of_both_versions(host: str) -> None:
    assert await answering(host) == {IPV4, IPV6}


@pytest.mark.parametrize("host", [IPV4, IPV6])
async def test_an_address_is_that_one_alone(host: str) -> None:
    assert await answering(host) == {host}


@pytest.mark.parametrize("host", WILDCARDS)
def test_a_kernel_without_ipv6_is_served_by_ipv4(host: str) -> None:
    run = [sys.executable, "-P", __file__, host]
    done = subprocess.run(run, env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{IPV4}\n", done.stderr


def test_a_taken_port_is_taken_for_both_versions() -> None:
    with listener("0.0.0.0", 0) as one, pytest.raises(OSError, match="in use"):
        listener("::", one.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "written"), [("10.0.0.7", "10.0.0.7:80"), ("fd00::7", "[fd00::7]:80"), ("x.test", "x.test:80")]
)
def test_an_ipv6_address_stands_in_brackets_before_its_port(host: str, written: str) -> None:
    assert host_port(host, 80) == written


def without_ipv6() -> None:
    """To this process the kernel is one that was started without: `socket` refuses the family."""
    load_call, load_family, refuse = (0x20, 0, 0, 0), (0x20, 0, 0, 16), 0x00050000 | errno.EAFNOSUPPORT
    program = [
        load_call,
        (0x15, 0, 3, _SOCKET_CALL),
        load_family,
        (0x15, 0, 1, socket.AF_INET6),
        (0x06, 0, 0, refuse),
        (0x06, 0, 0, 0x7FFF0000),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SECCOMP, _FILTER, described, 0, 0)):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), f"prctl {call[0]}")


if __name__ == "__main__":
    without_ipv6()
    print(*asyncio.run(answering(sys.argv[1])))  # noqa: T201
