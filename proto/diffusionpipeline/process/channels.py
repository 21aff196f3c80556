"""How the programs speak gRPC: limits, keepalive and proxies of every server and channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc

from diffusionpipeline.process.addresses import host_port

# Results travel in chunks of at most 1 MiB; everything else but lists is far smaller.
_MESSAGE_BYTES: Final = 4 << 20
# A thousand jobs with long prompts, or thousands of peers.
_LIST_BYTES: Final = 64 << 20

# Both ends of a worker's stream ping, so that each learns within 15 s that the other is gone.
_KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
# A proxy is for what lies outside; a router is never reached through one.
_NO_PROXY: Final = ("grpc.enable_http_proxy", 0)
# Two servers on one port would each get half of the calls.
_ALONE: Final = ("grpc.so_reuseport", 0)

# For a connection to say that it is one of HTTP/2; gRPC's own is two minutes.
_HANDSHAKE: Final = ("grpc.server_handshake_timeout_ms", 10_000)

_ROUTER_SERVER: Final = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _LIST_BYTES),
    *_KEEPALIVE,
    # Workers ping every 10 s; gRPC's own minimum is 5 minutes, after which it hangs up on them.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    _HANDSHAKE,
    # Without a call.
    ("grpc.max_connection_idle_ms", 75_000),
    _ALONE,
)

PROBES_SERVER: Final = (
    _HANDSHAKE,
    ("grpc.max_connection_idle_ms", 15_000),
    ("grpc.max_allowed_incoming_connections", 256),
    _ALONE,
)

WORKER_CHANNEL: Final = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    *_KEEPALIVE,
    ("grpc.http2.max_pings_without_data", 0),
    # gRPC's own pauses grow to two minutes, and a name is looked up at most every 30 s; a router's pod that was
    # replaced is back in seconds, at another address.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    # Workers of one process must not share a connection: each is a peer of its own.
    ("grpc.use_local_subchannel_pool", 1),
    _NO_PROXY,
)

ASKING_CHANNEL: Final = (("grpc.max_receive_message_length", _LIST_BYTES), _NO_PROXY)
"""Of those who ask a router now and then: the operator, `dpipe`."""


def router_server(*, max_connections: int) -> Sequence[tuple[str, int]]:
    """The options of a router's server. One connection more is hung up on."""
    return (*_ROUTER_SERVER, ("grpc.max_allowed_incoming_connections", max_connections))


def listen(server: grpc.aio.Server, host: str, port: int, *, flag: str) -> int:
    """Have the server listen there; 0 takes a free port. Gives the port. Raises OSError, which names the flag."""
    try:
        return server.add_insecure_port(host_port(host, port))
    except RuntimeError:
        raise OSError(f"{flag} {port}: cannot listen on {host}; choose a free port") from None
