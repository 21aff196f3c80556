"""Ports of worker pods.

A pod has an address of its own, so health is at the same two ports everywhere. On the host's network the pods of
several pipelines share the node's address: all that a worker listens on is then in its pipeline's own range.
"""

from __future__ import annotations

from typing import Final

from diffusion_operator.api import Pipeline
from diffusion_operator.render import names, rdma

WORKER_HEALTH_PORT: Final = 8080
WORKER_GRPC_HEALTH_PORT: Final = 8081


def worker_ports(pipeline: Pipeline) -> dict[str, int]:
    """Named ports of a worker's container main."""
    if rdma.on_host_network(pipeline):
        first = pipeline.transport.port_min
        return {names.HEALTH: first, names.GRPC_HEALTH: first + 1}
    return {names.HEALTH: WORKER_HEALTH_PORT, names.GRPC_HEALTH: WORKER_GRPC_HEALTH_PORT}


def transfer_ports(pipeline: Pipeline) -> tuple[int, int]:
    """First and last of those that workers listen on for one another."""
    transport = pipeline.transport
    taken = len(worker_ports(pipeline)) if rdma.on_host_network(pipeline) else 0
    return transport.port_min + taken, transport.port_max
