"""The registry of a router whose peers the test names: pods of the test cluster have no processes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, Self

import grpc

from diffusionpipeline.v1 import peer_pb2, registry_pb2, registry_pb2_grpc, stage_pb2
from testbed.controlplane.client import JSON

_GENERATION = "diffusion-operator.dev/generation"
_ROLE = "diffusion-operator.dev/role"


class FakeRouter(registry_pb2_grpc.RegistryServiceServicer):
    """Of every pipeline whose operator is told its `flag`."""

    def __init__(self) -> None:
        self._peers: list[registry_pb2.Peer] = []
        self.unfinished: int | None = None
        """Jobs; None: it does not say."""
        self.asked = 0
        self.shares: list[dict[str, int]] = []
        """Every one that it was told, in order."""
        self.refuses = False
        """It knows no shares."""
        self.tallies: dict[str, registry_pb2.Generation] = {}
        """What it counted, by generation."""
        self._server = grpc.server(ThreadPoolExecutor(4))
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(self, self._server)
        self.flag = f"--router-address=127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def register(self, pods: Iterable[JSON], mode: str) -> None:
        """Workers of these pods and no others, which exchange tensors by `mode`."""
        self._peers = [peer(pod, mode) for pod in pods]
        probe(self._peers)

    def cut(self, pod: str, error: str) -> None:
        """This pod's worker can't pull from its peer; an empty error: it can."""
        for reader in self._peers:
            for probed in reader.probed if reader.pod_name == pod else ():
                probed.error, probed.bytes_per_second = error, 0.0 if error else 1.1e9

    def ListPeers(self, request: registry_pb2.ListPeersRequest, context: Any) -> registry_pb2.ListPeersResponse:  # noqa: N802
        self.asked += 1
        shares = self.shares[-1] if self.shares else {}
        found = {name: registry_pb2.Generation(generation=name) for name in self.tallies.keys() | shares.keys()}
        for name, tally in self.tallies.items():
            found[name].MergeFrom(tally)
        for name, share in shares.items():
            found[name].share = share
        return registry_pb2.ListPeersResponse(
            revision=1, epoch="test", peers=self._peers, unfinished_jobs=self.unfinished, generations=found.values()
        )

    def SetShares(self, request: registry_pb2.SetSharesRequest, context: Any) -> registry_pb2.SetSharesResponse:  # noqa: N802
        if self.refuses:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "an older router")
        self.shares.append(dict(request.percent))
        return registry_pb2.SetSharesResponse()

    def WatchPeers(self, request: registry_pb2.WatchPeersRequest, context: Any) -> NoReturn:  # noqa: N802
        raise NotImplementedError("the operator asks, and watches no router")


def probe(peers: Sequence[registry_pb2.Peer]) -> None:
    """As if each had pulled from the first peer that makes what it reads."""
    for reader in peers:
        stage = reader.roles[0] - 1
        for maker in [maker for maker in peers if maker.roles[0] == stage][:1]:
            reader.probed.add(stage=stage_pb2.Stage.ValueType(stage), pod_name=maker.pod_name, bytes_per_second=1.1e9)


def peer(pod: JSON, mode: str) -> registry_pb2.Peer:
    """As which a pod's worker would be registered."""
    metadata = pod["metadata"]
    return registry_pb2.Peer(
        incarnation=metadata["uid"],
        pod_name=metadata["name"],
        roles=[stage_pb2.Role.Value(f"ROLE_{metadata['labels'][_ROLE].upper()}")],
        generation=metadata["labels"][_GENERATION],
        pool=peer_pb2.Pool(mode=mode, proof=peer_pb2.Proof(bytes_per_second=1.9e9, seconds=3e-4)),
        state=registry_pb2.PEER_STATE_READY,
    )
