"""The router's registry and queue over gRPC: what `dpipe peers` and the table of `dpipe up` show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import grpc
from rich.table import Table

from diffusionpipeline.process.channels import ASKING_CHANNEL
from diffusionpipeline.v1 import job_pb2, job_pb2_grpc, registry_pb2, registry_pb2_grpc, stage_pb2
from diffusionpipeline.words import proved_text, rate_text, word

CALL_SECONDS: Final = 2.0
_LIST_LIMIT: Final = 1000


class RegistryError(Exception):
    """The router's gRPC interface does not answer."""


@dataclass(frozen=True)
class Overview:
    peers: Sequence[registry_pb2.Peer]
    queued: int
    in_progress: int


class Registry:
    """One channel to a router. Use as a context manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address, options=ASKING_CHANNEL)
        self._registry = registry_pb2_grpc.RegistryServiceStub(self._channel)
        self._jobs = job_pb2_grpc.JobServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def peers(self) -> Sequence[registry_pb2.Peer]:
        """Raises RegistryError."""
        try:
            found = self._registry.ListPeers(registry_pb2.ListPeersRequest(), timeout=CALL_SECONDS).peers
        except grpc.RpcError as error:
            raise RegistryError(f"no answer from a router at {self.address}: {_text(error)}") from None
        return sorted(found, key=lambda peer: peer.pod_name)

    def overview(self) -> Overview:
        """Raises RegistryError. Counts stop at a thousand."""
        return Overview(
            peers=self.peers(),
            queued=self._count(job_pb2.JOB_STATUS_QUEUED),
            in_progress=self._count(job_pb2.JOB_STATUS_IN_PROGRESS),
        )

    def _count(self, status: job_pb2.JobStatus.ValueType) -> int:
        request = job_pb2.ListJobsRequest(status=status, limit=_LIST_LIMIT)
        try:
            return len(self._jobs.ListJobs(request, timeout=CALL_SECONDS).jobs)
        except grpc.RpcError as error:
            raise RegistryError(f"no answer from a router at {self.address}: {_text(error)}") from None


def _text(error: grpc.RpcError) -> str:
    return error.details() or str(error.code()) if isinstance(error, grpc.Call) else str(error)


def role_names(peer: registry_pb2.Peer) -> str:
    return " ".join(word(stage_pb2.Role, role) for role in peer.roles)


def state_name(peer: registry_pb2.Peer) -> str:
    return word(registry_pb2.PeerState, peer.state)


def address_text(peer: registry_pb2.Peer) -> str:
    """host:port out of `mooncake-tcp://host:port/region`; any other session as it is."""
    _, scheme, rest = peer.pool.url.partition("://")
    return rest.partition("/")[0] if scheme else peer.pool.url


def pool_text(peer: registry_pb2.Peer) -> str:
    return f"{peer.bytes_used / 2**20:.1f} of {peer.pool.size / 2**20:.0f} MiB"


def mode_text(peer: registry_pb2.Peer) -> str:
    """How its pool is reached; and how it pulls, if that is another way."""
    return f"{peer.pool.mode} (pulls {peer.pool.pulls})" if peer.pool.pulls else peer.pool.mode


def proof_text(peer: registry_pb2.Peer) -> str:
    """What it measured at its start; empty for one that did not."""
    if not peer.pool.HasField("proof"):
        return ""
    return proved_text(peer.pool.proof.bytes_per_second, peer.pool.proof.seconds)


def probed_text(peer: registry_pb2.Peer) -> str:
    """What it pulled from peers whose outputs it reads: `encoder 1.9 GB/s`."""
    return ", ".join(
        f"{word(stage_pb2.Role, probed.stage)} {'fails' if probed.error else rate_text(probed.bytes_per_second)}"
        for probed in sorted(peer.probed, key=lambda probed: probed.stage)
    )


def peer_table(peers: Sequence[registry_pb2.Peer]) -> Table:
    drawn = Table(box=None, pad_edge=False)
    for name in ("pod", "roles", "state", "incarnation", "transport", "self-pull", "peer-pull", "address"):
        drawn.add_column(name, overflow="fold")
    for name in ("tasks", "credits", "slots", "pool", "heard"):
        drawn.add_column(name, justify="right")
    for peer in peers:
        drawn.add_row(
            peer.pod_name,
            role_names(peer),
            state_name(peer),
            peer.incarnation[:8],
            mode_text(peer),
            proof_text(peer),
            probed_text(peer),
            address_text(peer),
            f"{peer.tasks} of {peer.capacity}",
            str(peer.credits),
            f"{peer.slots_used} of {peer.pool.slots}",
            pool_text(peer),
            f"{peer.seconds_since_report:.1f} s ago",
        )
    return drawn
