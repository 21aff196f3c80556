"""`RegistryService`: who is there, what they hold, where their pools are; and what they serve together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Set
from dataclasses import dataclass, field
from typing import Final

import grpc
import structlog

from diffusion_router.core import SharesSet, Stage
from diffusion_router.core.offers import control_net_of, ip_adapter_of
from diffusion_router.core.shares import checked
from diffusion_router.core.tallies import Tally
from diffusion_router.peers import messages
from diffusion_router.peers.dispatch import Dispatcher
from diffusion_router.peers.loading import Loadings
from diffusion_router.peers.sessions import Sessions
from diffusionpipeline.v1 import peer_pb2, registry_pb2, registry_pb2_grpc, stage_pb2
from diffusionpipeline.words import number

# Changes that come in bursts are sent together.
_SETTLE_SECONDS: Final = 0.05

log = structlog.get_logger()


@dataclass(frozen=True)
class _Offered:
    """By denoisers, by name: each with the model that it is for."""

    adapters: dict[str, peer_pb2.ModelIdentity] = field(default_factory=dict)
    control_nets: dict[str, peer_pb2.ModelIdentity] = field(default_factory=dict)
    ip_adapters: dict[str, peer_pb2.ModelIdentity] = field(default_factory=dict)
    schedulers: set[str] = field(default_factory=set)


class Registry(registry_pb2_grpc.RegistryServiceServicer):
    def __init__(self, dispatcher: Dispatcher, sessions: Sessions, model_id: str) -> None:
        """model_id: the pipeline's name for its model; empty: whatever the workers call it."""
        self.model_id = model_id
        self._dispatcher = dispatcher
        self._sessions = sessions
        self._models: list[peer_pb2.ModelIdentity] = []
        self._served: list[peer_pb2.ModelIdentity] = []
        # The revision of the list of peers whose models they are.
        self._models_of = 0
        self._offered: _Offered | None = None
        self._offered_of = 0
        self._served_adapters: dict[str, peer_pb2.ModelIdentity] = {}
        self._loadings = Loadings()

    def models(self) -> list[peer_pb2.ModelIdentity]:
        """What the registered workers serve, under the pipeline's name for it if it has one."""
        # Asked for with every request: made anew only when the list of peers has changed.
        if self._models_of != self._dispatcher.core.revision:
            self._models_of, self._models = self._dispatcher.core.revision, self._find_models()
        return self._models

    def served_models(self) -> list[peer_pb2.ModelIdentity]:
        """Those of `models`; while no worker is there, as when all roles are at zero, those that were served last."""
        self._served = self.models() or self._served
        return self._served

    def _find_models(self) -> list[peer_pb2.ModelIdentity]:
        found: dict[tuple[str, str], peer_pb2.ModelIdentity] = {}
        for peer in self._dispatcher.core.peers.values():
            session = self._sessions.session(peer.incarnation)
            if session is not None:
                model = self._named(session.register.model)
                found.setdefault((model.id, model.revision), model)
        return list(found.values())

    def _named(self, told: peer_pb2.ModelIdentity) -> peer_pb2.ModelIdentity:
        """Under the pipeline's name for it."""
        model = peer_pb2.ModelIdentity()
        model.CopyFrom(told)
        model.id = self.model_id or model.id
        return model

    def adapters(self) -> dict[str, peer_pb2.ModelIdentity] | None:
        """The names of those that denoisers offer, each with the model that it is for. None: no denoiser is there."""
        return found.adapters if (found := self._offered_now()) else None

    def served_adapters(self) -> dict[str, peer_pb2.ModelIdentity]:
        """Those of `adapters`; while no denoiser is there, those that were offered last."""
        offered = self.adapters()
        self._served_adapters = self._served_adapters if offered is None else offered
        return self._served_adapters

    def control_nets(self) -> dict[str, peer_pb2.ModelIdentity] | None:
        """The same of ControlNets."""
        return found.control_nets if (found := self._offered_now()) else None

    def ip_adapters(self) -> dict[str, peer_pb2.ModelIdentity] | None:
        """The same of IP-Adapters."""
        return found.ip_adapters if (found := self._offered_now()) else None

    def schedulers(self) -> Set[str] | None:
        """The names of those that denoisers offer. None: no denoiser is there."""
        return found.schedulers if (found := self._offered_now()) else None

    def _offered_now(self) -> _Offered | None:
        # As of the models.
        if self._offered_of != self._dispatcher.core.revision:
            self._offered_of, self._offered = self._dispatcher.core.revision, self._find_offered()
        return self._offered

    def _find_offered(self) -> _Offered | None:
        denoisers = [peer for peer in self._dispatcher.core.peers.values() if Stage.DENOISE in peer.stages]
        if not denoisers:
            return None
        found = _Offered()
        for peer in denoisers:
            session = self._sessions.session(peer.incarnation)
            if session is None:
                continue
            model = self._named(session.register.model)
            for name in peer.offered - peer.schedulers:
                if (control_net := control_net_of(name)) is not None:
                    found.control_nets[control_net] = model
                elif (ip_adapter := ip_adapter_of(name)) is not None:
                    found.ip_adapters[ip_adapter] = model
                else:
                    found.adapters[name] = model
            found.schedulers.update(session.register.schedulers)
        return found

    def ready(self) -> bool:
        """Whether each role has a peer that takes tasks."""
        return set(Stage) == frozenset().union(*self._dispatcher.core.capacity.places)

    async def ListPeers(  # noqa: N802
        self,
        request: registry_pb2.ListPeersRequest,
        context: grpc.aio.ServicerContext[registry_pb2.ListPeersRequest, registry_pb2.ListPeersResponse],
    ) -> registry_pb2.ListPeersResponse:
        peers = [peer for peer in self.peers() if not request.role or request.role in peer.roles]
        machine = self._dispatcher.core
        unfinished = sum(machine.unfinished.values())
        there = {peer.pod_name for peer in self.peers() if peer.state == registry_pb2.PEER_STATE_READY}
        return registry_pb2.ListPeersResponse(
            revision=machine.revision,
            epoch=machine.epoch,
            peers=peers,
            unfinished_jobs=unfinished,
            generations=self._generations(),
            loading=[one for one in self._loadings.current() if one.pod_name not in there],
        )

    async def WatchPeers(  # noqa: N802
        self,
        request: registry_pb2.WatchPeersRequest,
        context: grpc.aio.ServicerContext[registry_pb2.WatchPeersRequest, registry_pb2.WatchPeersResponse],
    ) -> AsyncIterator[registry_pb2.WatchPeersResponse]:
        machine = self._dispatcher.core
        while True:
            revision = machine.revision
            yield registry_pb2.WatchPeersResponse(revision=revision, epoch=machine.epoch, peers=self.peers())
            await asyncio.sleep(_SETTLE_SECONDS)
            while machine.revision == revision:
                await self._dispatcher.peers_changed()

    async def SetShares(  # noqa: N802
        self,
        request: registry_pb2.SetSharesRequest,
        context: grpc.aio.ServicerContext[registry_pb2.SetSharesRequest, registry_pb2.SetSharesResponse],
    ) -> registry_pb2.SetSharesResponse:
        try:
            percent = checked(request.percent)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        log.info("new jobs begin by shares of generations", percent=percent)
        self._dispatcher.dispatch(SharesSet(percent))
        return registry_pb2.SetSharesResponse()

    async def TellLoading(  # noqa: N802
        self,
        request: registry_pb2.TellLoadingRequest,
        context: grpc.aio.ServicerContext[registry_pb2.TellLoadingRequest, registry_pb2.TellLoadingResponse],
    ) -> registry_pb2.TellLoadingResponse:
        try:
            self._loadings.note(request.loading)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return registry_pb2.TellLoadingResponse()

    def _generations(self) -> list[registry_pb2.Generation]:
        shares, tallies = self._dispatcher.core.shares.percent, self._dispatcher.core.tallies.by_generation
        found = []
        for name in sorted(shares.keys() | tallies.keys()):
            tally = tallies.get(name, Tally())
            found.append(
                registry_pb2.Generation(
                    generation=name,
                    share=shares.get(name),
                    done=tally.done,
                    failed=tally.failed,
                    seconds=tally.seconds,
                    expected_seconds=tally.expected_seconds,
                )
            )
        return found

    def peers(self) -> list[registry_pb2.Peer]:
        return [self._describe(peer) for peer in self._dispatcher.core.peers.values()]

    def _describe(self, peer: messages.Peer) -> registry_pb2.Peer:
        message = registry_pb2.Peer(
            incarnation=peer.incarnation,
            pod_name=peer.pod_name,
            roles=[stage_pb2.Role.ValueType(stage) for stage in sorted(peer.stages)],
            generation=peer.generation,
            state=number(registry_pb2.PeerState, peer.state.value),
            capacity=peer.capacity,
            credits=peer.credits,
            tasks=len(peer.tasks),
            outputs=len(peer.outputs) - len(peer.cached),
            cached_outputs=len(peer.cached),
        )
        session = self._sessions.session(peer.incarnation)
        if session is not None:
            message.model.CopyFrom(session.register.model)
            message.pool.CopyFrom(session.register.pool)
            message.versions.update(session.register.versions)
            message.slots_used = session.heartbeat.slots_used
            message.bytes_used = session.heartbeat.bytes_used
            message.forwards.extend(session.heartbeat.forwards)
            if session.prober is not None:
                message.probed.extend(session.prober.found.values())
            message.seconds_since_report = time.monotonic() - session.last_report
        return message
