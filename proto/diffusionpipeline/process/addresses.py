"""Addresses of IPv4 and IPv6: how one is written before a port, and what a server takes that listens on all of them.

A pod has addresses of one version of IP or of both, and whoever writes its settings does not know which. So each of the
two wildcards means all addresses that there are, of both versions. gRPC's servers take them so by themselves.
"""

from __future__ import annotations

import socket
from typing import Final

WILDCARDS: Final = frozenset({"0.0.0.0", "::"})


def host_port(host: str, port: int) -> str:
    """As in a URL: an IPv6 address stands in brackets, lest its last part is taken for the port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listener(host: str, port: int) -> socket.socket:
    """A socket that takes TCP connections to an address, or to all; port 0 takes a free one. Raises OSError."""
    if host not in WILDCARDS:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    # The kernel was started without IPv6.
    return socket.create_server(("0.0.0.0", port))
