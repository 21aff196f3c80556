"""Who is registered with a pipeline's router, and over which transport: one gRPC call, answered or given up in 2 s.

The call is never part of a reconcile: a router that hangs must not hold up the children of its pipeline. A task asks
the routers in turn, and a pipeline is reconciled when the answer is another than before. Kubernetes alone cannot tell:
pods that are all ready may still exchange tensors over TCP where RDMA was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

import grpc

from diffusion_operator.cluster.keys import Key
from diffusion_operator.status.observed import LoadingSeen, PeerSeen, PeersObserved, ProbedSeen
from diffusion_operator.update.surge import Tally
from diffusionpipeline.process.channels import ASKING_CHANNEL
from diffusionpipeline.v1 import peer_pb2, registry_pb2, registry_pb2_grpc, stage_pb2
from diffusionpipeline.words import MODEL_ROLES, Role, number, word

CALL_SECONDS: Final = 2.0
# While something is still to come, ever more slowly as long as nothing does; and when all is well.
EAGER_SECONDS: Final = 5.0
CALM_SECONDS: Final = 60.0
AT_ONCE: Final = 16
# Stages whose outputs travel.
_READ: Final = (stage_pb2.STAGE_ENCODE, stage_pb2.STAGE_DENOISE)


@dataclass
class _Router:
    address: str
    settled: bool
    """All that is expected is there."""
    expected: int
    """Workers that are ready, and should be registered."""
    shares: Mapping[str, int]
    """Percent of new jobs by generation, as it is to have them."""
    asked: float
    """When it was asked last; -inf: never."""
    answer: PeersObserved | None
    pause: float = EAGER_SECONDS

    @property
    def due(self) -> float:
        return self.asked + (CALM_SECONDS if self.settled else self.pause)


class Registries:
    """The routers that are up. All methods are called on the event loop; `run` is a task."""

    def __init__(self, changed: Callable[[Key], None]) -> None:
        self._changed = changed
        self._routers: dict[Key, _Router] = {}
        self._wake = asyncio.Event()

    def peers(self, key: Key) -> PeersObserved | None:
        """The last answer; None: not asked yet, or there is no router to ask."""
        router = self._routers.get(key)
        return None if router is None else router.answer

    def follow(
        self, key: Key, address: str, *, settled: bool, expected: int, shares: Mapping[str, int] | None = None
    ) -> None:
        """Ask this router, often until everything is `settled`, and again when another number of peers is expected, or
        it is to have other `shares`, which it is told.

        Models load for minutes, in which the answer stays the same; when a worker has loaded its own, it is another.
        """
        router, shares = self._routers.get(key), shares or {}
        if router is None or router.address != address:
            self._routers[key] = _Router(address, settled, expected, shares, float("-inf"), None)
            self._wake.set()
            return
        if (router.settled and not settled) or router.expected != expected:
            router.pause = EAGER_SECONDS
            self._wake.set()
        if router.shares != shares:
            router.pause = 0.0
            self._wake.set()
        router.settled, router.expected, router.shares = settled, expected, shares

    def forget(self, key: Key) -> None:
        self._routers.pop(key, None)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            now = time.monotonic()
            due = [key for key, router in self._routers.items() if router.due <= now]
            for start in range(0, len(due), AT_ONCE):
                await asyncio.gather(*(self._ask(key) for key in due[start : start + AT_ONCE]))
            soonest = min((router.due for router in self._routers.values()), default=None)
            try:
                async with asyncio.timeout(None if soonest is None else max(0.05, soonest - time.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _ask(self, key: Key) -> None:
        router = self._routers.get(key)
        if router is None:
            return
        router.asked = time.monotonic()
        answer = await ask(router.address, router.shares)
        if answer == router.answer:
            router.pause = min(max(router.pause, EAGER_SECONDS / 2) * 2, CALM_SECONDS)
        else:
            router.answer, router.pause = answer, EAGER_SECONDS
            if self._routers.get(key) is router:
                self._changed(key)


async def ask(address: str, shares: Mapping[str, int] | None = None) -> PeersObserved:
    """The peers that a router lists, once it has these shares. Never raises: that it can't be reached is an answer too.

    shares: None: whichever it has.
    """
    async with grpc.aio.insecure_channel(address, options=ASKING_CHANNEL) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)
        try:
            listed = await stub.ListPeers(registry_pb2.ListPeersRequest(), timeout=CALL_SECONDS)
            if shares is not None and _shares(listed) != shares:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    # A router of a version that knows no shares keeps having none, and its answer says so.
                    await stub.SetShares(registry_pb2.SetSharesRequest(percent=shares), timeout=CALL_SECONDS)
                listed = await stub.ListPeers(registry_pb2.ListPeersRequest(), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            # The details name addresses and ports that change from call to call, and whether a router that is not there
            # is refused or not heard of in time is a matter of luck.
            code = error.code()
            name = "UNAVAILABLE" if code is grpc.StatusCode.DEADLINE_EXCEEDED else code.name
            return PeersObserved(reachable=False, error=name, peers=())
    return PeersObserved(
        reachable=True,
        peers=tuple(sorted(map(_peer, listed.peers), key=lambda peer: peer.pod)),
        loading=tuple(sorted(map(_loading, listed.loading), key=lambda loading: loading.pod)),
        idle=listed.unfinished_jobs == 0 if listed.HasField("unfinished_jobs") else None,
        shares=_shares(listed),
        tallies=_tallies(listed) if shares and len(shares) > 1 else {},
    )


def _shares(listed: registry_pb2.ListPeersResponse) -> dict[str, int]:
    return {each.generation: each.share for each in listed.generations if each.HasField("share")}


def _tallies(listed: registry_pb2.ListPeersResponse) -> dict[str, Tally]:
    return {
        each.generation: Tally(each.done, each.failed, each.seconds, each.expected_seconds)
        for each in listed.generations
    }


def _peer(peer: registry_pb2.Peer) -> PeerSeen:
    return PeerSeen(
        pod=peer.pod_name,
        roles=_roles(peer.roles),
        generation=peer.generation,
        mode=peer.pool.mode,
        state=word(registry_pb2.PeerState, peer.state),
        pulls=peer.pool.pulls,
        bytes_per_second=peer.pool.proof.bytes_per_second if peer.pool.HasField("proof") else None,
        probed=tuple(
            _probed(probed) for probed in sorted(peer.probed, key=lambda one: one.stage) if probed.stage in _READ
        ),
    )


def _probed(probed: peer_pb2.Probed) -> ProbedSeen:
    return ProbedSeen(
        maker=MODEL_ROLES[probed.stage - 1],
        pod=probed.pod_name,
        bytes_per_second=probed.bytes_per_second,
        error=probed.error,
    )


def _loading(loading: registry_pb2.Loading) -> LoadingSeen:
    percent = 100 * loading.bytes // max(1, loading.size)
    return LoadingSeen(
        pod=loading.pod_name,
        roles=_roles(loading.roles),
        generation=loading.generation,
        bytes=math.ceil(loading.size * percent / 100),
        size=loading.size,
    )


def _roles(numbers: Collection[int]) -> tuple[Role, ...]:
    return tuple(role for role in MODEL_ROLES if number(stage_pb2.Role, role) in numbers)
