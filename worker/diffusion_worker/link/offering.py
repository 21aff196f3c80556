"""What the router is told of a model's adapters, ControlNets and IP-Adapters: which there are, and which adapters are
loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from diffusion_worker.model.types import Offered, StageModel
from diffusionpipeline.v1 import peer_pb2

LOOK_SECONDS: Final = 2.0
"""Between two looks at the folder of adapters, to which people add."""


class Offering:
    def __init__(self, model: StageModel, control_nets: Sequence[str] = (), ip_adapters: Sequence[str] = ()) -> None:
        """`control_nets`, `ip_adapters`: names of those that the model was loaded with."""
        self._model = model
        self._control_nets = control_nets
        self._ip_adapters = ip_adapters
        self._offered: list[Offered] | None = None
        self._said: list[Offered] | None = None

    async def look(self) -> None:
        """Learns what there is. Not on the event loop, for a folder may be on a network."""
        self._offered = await asyncio.to_thread(self._model.adapters_offered)

    async def keep(self) -> None:
        """Goes on looking, if there can be something new."""
        while self._offered is not None:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    def all(self) -> peer_pb2.Adapters | None:
        """What is known; None: this model never has any."""
        self._said = self._offered
        if self._offered is None and not self._control_nets and not self._ip_adapters:
            return None
        return peer_pb2.Adapters(
            offered=map(_to_wire, self._offered or ()), control_nets=self._control_nets, ip_adapters=self._ip_adapters
        )

    def news(self) -> peer_pb2.Adapters | None:
        """What is known, if it is something else than was said last."""
        return None if self._offered == self._said else self.all()


def _to_wire(one: Offered) -> peer_pb2.OfferedAdapter:
    return peer_pb2.OfferedAdapter(
        name=one.name,
        scale=one.scale,
        loaded=one.loaded,
        load_seconds=one.load_seconds,
        bytes=one.bytes,
        loads=one.loads,
    )
