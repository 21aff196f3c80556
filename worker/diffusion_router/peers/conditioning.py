"""Which jobs are encoded the same, by what encoders say that their encoding reads.

What an encoder said holds for its generation as long as that has a worker, which may keep what the encoder made.
"""

from __future__ import annotations

from collections.abc import Mapping

import xxhash

from diffusion_router.peers.dispatch import Dispatcher
from diffusion_router.peers.sessions import Sessions
from diffusionpipeline.v1 import stage_pb2

Inputs = frozenset[str]
Reads = frozenset[str]


class Conditionings:
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._sessions: Sessions | None = None
        self._reads: Mapping[Inputs, Reads] = {}
        # By generation, what each of the encoders that it had last said.
        self._said: dict[str, list[Mapping[Inputs, Reads]]] = {}
        # The revision of the list of peers who say so.
        self._reads_of = -1

    def watch(self, sessions: Sessions) -> None:
        """Nothing is known before it is known where workers say it."""
        self._sessions = sessions

    def key(self, parameters: stage_pb2.JobParameters) -> str:
        """Equal for requests that are encoded the same; empty where that can't be told."""
        if self._reads_of != self._dispatcher.core.revision:
            self._reads_of, self._reads = self._dispatcher.core.revision, self._find_reads()
        reads = self._reads.get(frozenset(file.name for file in parameters.inputs))
        return "" if reads is None else key(parameters, reads)

    def _find_reads(self) -> dict[Inputs, Reads]:
        """Of all encoders together: where two differ, as in a rollout, whatever one of them reads counts."""
        peers = self._dispatcher.core.peers.values()
        said: dict[str, list[Mapping[Inputs, Reads]]] = {}
        for peer in peers:
            session = self._sessions.session(peer.incarnation) if self._sessions else None
            if session is None or stage_pb2.ROLE_ENCODER not in session.register.roles:
                continue
            reads: Mapping[Inputs, Reads] = {
                frozenset(one.inputs): frozenset(one.encoding_reads)
                for one in session.register.workflows
                if one.encodes_apart
            }
            said.setdefault(peer.generation, []).append(reads)
        here = {peer.generation for peer in peers}
        self._said = {generation: each for generation, each in self._said.items() if generation in here} | said
        known = [apart for each in self._said.values() for apart in each]
        found: dict[Inputs, Reads] = {}
        for apart in known:
            for inputs, read in apart.items():
                found[inputs] = found.get(inputs, frozenset()) | read
        return {inputs: read for inputs, read in found.items() if all(inputs in apart for apart in known)}


def key(parameters: stage_pb2.JobParameters, reads: Reads) -> str:
    """The hash of what encoding reads of a request: its files with what they are for, all arguments that only its
    family of models has, and what else is among `reads`."""
    read = stage_pb2.JobParameters(
        inputs=parameters.inputs,
        controls=parameters.controls,
        ip_adapters=parameters.ip_adapters,
        extra=parameters.extra,
    )
    for field, value in parameters.ListFields():
        if field.message_type is None and field.name in reads:
            setattr(read, field.name, value)
    if "adapters" in reads:
        read.adapters.extend(parameters.adapters)
    return xxhash.xxh3_128_hexdigest(read.SerializeToString(deterministic=True))
