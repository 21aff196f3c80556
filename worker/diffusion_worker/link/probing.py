"""Pulls of peers' probes, which the router asks for when a pair first meets: one for each stage whose outputs are read.

A peer that has just gone is no fault of the network, and the router soon names another: a failure is told when it has
stood for longer than a lease. Then it is tried on, ever more rarely, for a network may be mended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from diffusion_worker.transport import PoolFull, Transport, TransportError, from_wire, pull_rate
from diffusionpipeline.v1 import peer_pb2, stage_pb2
from diffusionpipeline.words import rate_text, word

PULL_SECONDS: Final = 10.0
FIRST_PAUSE: Final = 5.0
LONGEST_PAUSE: Final = 60.0
TOLD_AT: Final = 3

log = structlog.get_logger()


class Probing:
    """`send` takes reports to the router; `measured` hears the stage and bytes a second of pulls that worked."""

    def __init__(
        self,
        transport: Transport,
        send: Callable[[peer_pb2.PeerReport], None],
        measured: Callable[[str, float], None],
        *,
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        self._transport = transport
        self._send = send
        self._measured = measured
        self._first_pause = first_pause
        self._going: dict[int, asyncio.Task[None]] = {}
        self._found: dict[int, peer_pb2.Probed] = {}

    def found(self) -> Iterable[peer_pb2.Probed]:
        """What is known so far, for a router that may know nothing."""
        return self._found.values()

    def obey(self, probe: peer_pb2.Probe) -> None:
        """Try the pair that the router names, in place of an earlier one for the same stage."""
        self._stop(probe.stage)
        if probe.HasField("payload"):
            self._going[probe.stage] = asyncio.create_task(self._try(probe))

    def close(self) -> None:
        """Forget all that did not work; nothing is tried any more."""
        for stage in list(self._going):
            self._stop(stage)

    def _stop(self, stage: int) -> None:
        if (going := self._going.pop(stage, None)) is not None:
            going.cancel()
        if stage in self._found and self._found[stage].error:
            del self._found[stage]

    async def _try(self, probe: peer_pb2.Probe) -> None:
        stage, pause, failures = word(stage_pb2.Stage, probe.stage), self._first_pause, 0
        while True:
            try:
                rate = await pull_rate(self._transport, from_wire(probe.payload), timeout=PULL_SECONDS)
            except PoolFull:
                pass  # with what is worked on: it says nothing of the way
            except TransportError as error:
                failures += 1
                log.warning("probe_failed", stage=stage, pod=probe.pod_name, error=str(error), failures=failures)
                if failures == TOLD_AT:
                    self._tell(peer_pb2.Probed(stage=probe.stage, pod_name=probe.pod_name, error=str(error)))
                elif failures > TOLD_AT:
                    pause = min(2 * pause, LONGEST_PAUSE)
            else:
                log.info("probed", stage=stage, pod=probe.pod_name, pulled_at=rate_text(rate))
                self._measured(stage, rate)
                self._tell(peer_pb2.Probed(stage=probe.stage, pod_name=probe.pod_name, bytes_per_second=rate))
                return
            await asyncio.sleep(pause)

    def _tell(self, probed: peer_pb2.Probed) -> None:
        self._found[probed.stage] = probed
        self._send(peer_pb2.PeerReport(probed=probed))
