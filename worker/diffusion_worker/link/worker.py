"""This worker as the router sees it: who it is, what it holds, what it does when told to."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import structlog

from diffusion_worker.link.offering import Offering
from diffusion_worker.link.probing import Probing
from diffusion_worker.link.process import this_process
from diffusion_worker.loading import Loaded, versions
from diffusion_worker.settings import Settings
from diffusion_worker.transport import Probe, Proof, Transport, to_wire
from diffusion_worker.work.paces import Paces
from diffusion_worker.work.runner import Runner
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import PROTOCOL, Stage, number

log = structlog.get_logger()


class Worker:
    """Whom the stream speaks for: a peer, and after it was fenced another. No method blocks, but for `abandon`.

    `leave` is called when the router asks this worker to drain.
    """

    def __init__(
        self,
        settings: Settings,
        loaded: Loaded,
        transport: Transport,
        proof: Proof,
        runner: Runner,
        paces: Paces,
        probing: Probing,
        offering: Offering,
        *,
        leave: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._loaded = loaded
        self._transport = transport
        self._proof = proof
        self._runner = runner
        self._paces = paces
        self._probe = Probe(transport.pool)
        self._probing = probing
        self._offering = offering
        self._leave = leave
        self._versions = versions()
        self._process = this_process(settings.pod_uid)
        self._secret = secrets.token_bytes(16)

    def registration(self) -> peer_pb2.Register:
        tasks, outputs = self._runner.holdings.registered()
        pool, probe = self._transport.pool, self._probe.offer()
        return peer_pb2.Register(
            incarnation=pool.incarnation,
            pod_name=self._settings.pod_name,
            roles=[number(stage_pb2.Role, role) for role in self._settings.roles],
            generation=self._settings.generation,
            model=self._loaded.identity,
            pool=peer_pb2.Pool(
                mode=self._transport.mode,
                url=pool.url,
                address=pool.address,
                size=pool.size,
                slots=pool.slots,
                pulls=self._transport.pulls if self._transport.pulls != self._transport.mode else "",
                proof=peer_pb2.Proof(
                    bytes_per_second=self._proof.bytes_per_second,
                    seconds=self._proof.seconds,
                ),
            ),
            capacity=self._settings.capacity,
            tasks=tasks,
            outputs=outputs,
            versions=self._versions,
            draining=self._runner.draining,
            protocol=PROTOCOL,
            process=self._process,
            secret=self._secret,
            workflows=[
                peer_pb2.Workflow(
                    inputs=sorted(one.images),
                    encodes_apart=one.encoding_reads is not None,
                    encoding_reads=sorted(one.encoding_reads or ()),
                    resumable=one.resumable,
                )
                for one in self._loaded.model.workflows
            ],
            probe=to_wire(probe, self._settings.generation) if probe is not None else None,
            probed=self._probing.found(),
            adapters=self._offering.all(),
            schedulers=self._loaded.model.schedulers_offered,
            cache_share=self._settings.cache_share if Stage.ENCODE in self._settings.stages else 0.0,
        )

    def unsettled(self) -> Iterator[peer_pb2.PeerReport]:
        """What the router may have missed, beyond what a registration says."""
        return self._runner.holdings.unsettled()

    def heartbeat(self) -> peer_pb2.Heartbeat:
        pool = self._transport.pool
        return peer_pb2.Heartbeat(
            slots_used=pool.slots_used,
            bytes_used=pool.bytes_used,
            draining=self._runner.draining,
            forwards=self._paces.reports(),
            adapters=self._offering.news(),
        )

    def obey(self, command: peer_pb2.RouterCommand) -> None:
        """Any command but Registered and Refused."""
        match command.WhichOneof("command"):
            case "execute":
                self._runner.execute(command.execute)
            case "cancel":
                self._runner.cancel(command.cancel.task_id, only_if_waiting=command.cancel.only_if_waiting)
            case "park":
                self._runner.park(command.park.task_id)
            case "checkpoint":
                asked = command.checkpoint
                self._runner.snapshots.ask(asked.task_id, asked.checkpoint_id, within_seconds=asked.within_seconds)
            case "release_slot":
                self._runner.holdings.release(command.release_slot.task_id)
            case "drain":
                self._leave()
            case "probe":
                self._probing.obey(command.probe)
            case "peer_gone":
                self._runner.inputs.forget_peer(command.peer_gone.incarnation)
            case other:
                log.warning("unknown_command", command=other)

    def failure_sent(self, task_id: str) -> None:
        self._runner.holdings.failure_sent(task_id)

    async def abandon(self) -> None:
        """Drop all work and become a new incarnation."""
        incarnation = secrets.token_hex(16)
        self._probing.close()
        await self._runner.abandon(incarnation)
        log.info("reincarnated", incarnation=incarnation)
