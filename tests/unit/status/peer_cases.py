"""Cases of what the router's registry tells: RouterReady, PeersRegistered, TransportReady."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diffusion_operator.api import MODEL_ROLES, Role
from diffusion_operator.status.observed import PeerSeen, ProbedSeen
from unit.status.seen import (
    ALL_COLOCATED,
    BY_EDGE,
    OLD,
    RDMA,
    RDMA_OR_NOTHING,
    SUSPENDED,
    UNREACHABLE,
    answer,
    at_zero,
    case,
    observed,
    one_of_each,
    peer,
    problem,
    role,
    unready,
)

NO_DEVICE = problem(
    "TransportFailed",
    "no usable RDMA device, and spec.transport.fallback is Deny: mlx5_0: no port is ACTIVE (port 1 DOWN)",
)
MEMLOCK = problem("TransportFailed", "Mooncake can't register a pool: raise the locked-memory limit")

# By reader: bytes a second, or why it fails.
READ = {
    (Role.DENOISER, 0): (2.06e9, ""),
    (Role.DENOISER, 1): (987e6, ""),
    (Role.DECODER, 0): (1.9412e9, ""),
}
CUT: dict[Any, Any] = {**READ, (Role.DENOISER, 0): (0.0, "connection refused")}


def probed(found: Mapping[tuple[Role, int], tuple[float, str]]) -> list[PeerSeen]:
    """An encoder, and readers that tried the way to a peer of number 0."""
    seen = [peer(Role.ENCODER)]
    for (reader, number), (rate, error) in found.items():
        maker = MODEL_ROLES[MODEL_ROLES.index(reader) - 1]
        tried = ProbedSeen(maker=maker, pod=f"digits-{maker}-0", bytes_per_second=rate, error=error)
        seen.append(peer(reader, number, probed=(tried,)))
    return seen


ROUTER = [
    case(observed(), "RouterReady", "True", "RegistryAnswers", "its registry answers", id="it answers"),
    case(
        observed(peers=UNREACHABLE),
        "RouterReady",
        "Unknown",
        "RouterUnreachable",
        "UNAVAILABLE",
        id="it does not answer",
    ),
    case(observed(peers=None), "RouterReady", "Unknown", "RouterNotAsked", "not been asked", id="nobody asked it yet"),
    case(
        observed(router=unready(1, 0)),
        "RouterReady",
        "False",
        "RouterNotReady",
        "router 0 of 1 ready: 1 pod starting",
        id="its pod is not ready",
    ),
    case(at_zero(), "RouterReady", "False", "Suspended", "the router has no pod", spec=SUSPENDED, id="suspended"),
]

PEERS = [
    case(observed(), "PeersRegistered", "True", "Registered", "every ready worker pod is registered", id="all of them"),
    case(
        observed(peers=answer(one_of_each()[1:])),
        "PeersRegistered",
        "False",
        "PeersMissing",
        "encoder: 0 of 1 ready pod registered",
        id="one is missing",
    ),
    case(
        observed(peers=answer([*one_of_each()[1:], peer(Role.ENCODER, state="stalled")])),
        "PeersRegistered",
        "False",
        "PeerStalled",
        "encoder: 0 of 1 ready pod registered; 1 peer did not stop a task when told to, and gets no more",
        id="one does not stop",
    ),
    case(
        observed(peers=answer([*one_of_each()[1:], peer(Role.ENCODER, state="suspect")])),
        "PeersRegistered",
        "False",
        "PeerSuspect",
        "encoder: 0 of 1 ready pod registered; the router does not hear from 1 peer",
        id="one is no longer heard of",
    ),
    case(
        observed(
            denoiser=role(2, updated=1, update_revision="r2"),
            peers=answer([*one_of_each(), peer(Role.DENOISER, 1, generation=OLD)]),
        ),
        "PeersRegistered",
        "False",
        "GenerationMismatch",
        "denoiser: 1 of 2 ready pods registered at generation aaaaaaaaaa, others at 0000000000",
        id="a rollout is half done",
    ),
    case(
        observed(denoiser=unready(1, 0, problem("Incompatible", "give both the same devices"))),
        "PeersRegistered",
        "False",
        "Incompatible",
        "denoiser: 1 pod Incompatible (digits-denoiser-0): give both the same devices",
        id="the router turns a worker away",
    ),
    case(
        observed(encoder=unready(1, 0), denoiser=unready(1, 0), decoder=unready(1, 0)),
        "PeersRegistered",
        "False",
        "NoReadyWorkers",
        "no worker pod is ready",
        id="nobody could be",
    ),
    case(observed(peers=None), "PeersRegistered", "Unknown", "RouterNotAsked", "", id="nobody asked the router"),
    case(
        observed(peers=UNREACHABLE), "PeersRegistered", "Unknown", "RouterUnreachable", "NetworkPolicy", id="no answer"
    ),
    case(observed(router=unready(1, 0)), "PeersRegistered", "Unknown", "RouterNotReady", "", id="no router to ask"),
    case(at_zero(), "PeersRegistered", "Unknown", "Suspended", "there are no peers", spec=SUSPENDED, id="suspended"),
    case(
        observed(peers=answer([peer(Role.DENOISER, roles=(Role.ENCODER, Role.DENOISER, Role.DECODER))])),
        "PeersRegistered",
        "True",
        "Registered",
        "",
        spec=ALL_COLOCATED,
        id="a monolith is one peer of all roles",
    ),
    case(
        observed(
            denoiser=role(1, replicas=2, ready=2),
            peers=answer([*one_of_each(), peer(Role.DENOISER, 1, state="draining")]),
        ),
        "PeersRegistered",
        "True",
        "Registered",
        "",
        id="a pod that leaves is not missed",
    ),
]

TRANSPORT = [
    case(
        observed(peers=answer(one_of_each(mode="mooncake-rdma"))),
        "TransportReady",
        "True",
        "InUse",
        "peers use rdma",
        spec=RDMA_OR_NOTHING,
        id="rdma, as was asked for",
    ),
    case(observed(), "TransportReady", "True", "InUse", "peers use tcp", id="auto takes what there is"),
    case(
        observed(
            peers=answer(
                peer(role, bytes_per_second=rate)
                for role, rate in zip(MODEL_ROLES, (1.9412e9, 987e6, 2.06e9), strict=True)
            )
        ),
        "TransportReady",
        "True",
        "InUse",
        "peers use tcp; 3 workers pulled from themselves at 990 MB/s to 2.1 GB/s",
        id="what workers measured",
    ),
    case(
        observed(peers=answer([*one_of_each(), peer(Role.DENOISER, 1, bytes_per_second=4.25e6)])),
        "TransportReady",
        "True",
        "InUse",
        "peers use tcp; 1 worker pulled from itself at 4.2 MB/s",
        id="workers of an earlier version measure nothing",
    ),
    case(
        observed(peers=answer(probed(READ))),
        "TransportReady",
        "True",
        "InUse",
        "peers use tcp; 2 denoisers from an encoder at 990 MB/s to 2.1 GB/s, 1 decoder from a denoiser at 1.9 GB/s",
        id="what they pulled from one another",
    ),
    case(
        observed(peers=answer(probed(CUT))),
        "TransportReady",
        "False",
        "PeerUnreachable",
        "digits-denoiser-0 can't pull from digits-encoder-0: connection refused. See whether NetworkPolicies",
        id="a pair that can't reach each other",
    ),
    case(
        observed(peers=answer(probed(CUT))),
        "Ready",
        "False",
        "TransportDegraded",
        "digits-denoiser-0 can't pull from digits-encoder-0",
        id="a pair that can't reach each other keeps the pipeline from being ready",
    ),
    case(
        observed(peers=answer(probed({**CUT, (Role.DENOISER, 1): (0.0, "no route to host")}))),
        "TransportReady",
        "False",
        "PeerUnreachable",
        "digits-denoiser-0 can't pull from digits-encoder-0 (and 1 pair more): connection refused",
        spec=RDMA,
        id="several pairs, which weighs more than a fall back that is allowed",
    ),
    case(
        observed(peers=answer([*one_of_each(), *(replace(peer, generation=OLD) for peer in probed(CUT))])),
        "TransportReady",
        "True",
        "InUse",
        "peers use tcp",
        id="a pair of an older generation is not met",
    ),
    case(
        observed(peers=answer(one_of_each(mode="shm"))),
        "TransportReady",
        "True",
        "InUse",
        "peers use shm",
        spec="transport: {backend: shm}",
        id="shared memory",
    ),
    case(
        observed(),
        "TransportReady",
        "False",
        "FallbackToTCP",
        "peers use tcp, not rdma as spec.transport asks for",
        spec=RDMA,
        id="rdma was asked for",
    ),
    case(
        observed(),
        "TransportReady",
        "False",
        "FallbackToTCP",
        "peers use tcp, not rdma",
        spec="transport: {fallback: Deny, rdma: {resourceName: rdma/hca}}",
        id="auto that may not fall back means rdma",
    ),
    case(
        observed(peers=answer([*one_of_each(), peer(Role.DENOISER, 1, mode="mooncake-rdma")])),
        "TransportReady",
        "False",
        "MixedModes",
        "encoder tcp; denoiser rdma and tcp; decoder tcp",
        id="two of a role differ",
    ),
    case(
        observed(peers=answer([*one_of_each(mode="mooncake-rdma"), peer(Role.DENOISER, 1, generation=OLD)])),
        "TransportReady",
        "True",
        "InUse",
        "peers use rdma",
        id="peers of an older generation are not met",
    ),
    case(
        observed(denoiser=unready(1, 0, NO_DEVICE)),
        "TransportReady",
        "False",
        "NoDevice",
        "denoiser: 1 pod TransportFailed (digits-denoiser-0): no usable RDMA device",
        spec=RDMA_OR_NOTHING,
        id="no device can be opened",
    ),
    case(
        observed(denoiser=unready(1, 0, MEMLOCK)),
        "TransportReady",
        "False",
        "MemlockLimit",
        "raise the locked-memory limit",
        spec=RDMA,
        id="memory may not be locked",
    ),
    case(
        observed(denoiser=unready(1, 0, problem("TransportFailed", "no free port from 15000 to 15001"))),
        "TransportReady",
        "False",
        "TransportFailed",
        "no free port",
        id="another failure of the transport",
    ),
    case(
        observed(encoder=unready(1, 0), denoiser=unready(1, 0), decoder=unready(1, 0)),
        "TransportReady",
        "Unknown",
        "NoPeers",
        "no peer has said",
        id="nobody to ask",
    ),
    case(observed(peers=None), "TransportReady", "Unknown", "RouterNotAsked", "", id="nobody asked the router"),
    case(observed(peers=UNREACHABLE), "TransportReady", "Unknown", "RouterUnreachable", "", id="the router is silent"),
    case(observed(router=unready(1, 0)), "TransportReady", "Unknown", "RouterNotReady", "", id="no router to ask"),
    case(at_zero(), "TransportReady", "Unknown", "Suspended", "", spec=SUSPENDED, id="suspended"),
]

EITHER = "transport: {protocol: tcp, edges: {denoiserToDecoder: {protocol: rdma}}, rdma: {resourceName: rdma/hca}}"


def by_edge(encoder: str, pulls: str, denoiser: str, decoder: str) -> Any:
    """What encoders offer, denoisers pull and offer, and decoders pull: the ends of Mooncake's modes."""
    return answer(
        [
            peer(Role.ENCODER, mode=f"mooncake-{encoder}"),
            peer(Role.DENOISER, mode=f"mooncake-{denoiser}", pulls=f"mooncake-{pulls}" if pulls != denoiser else ""),
            peer(Role.DECODER, mode=f"mooncake-{decoder}"),
        ]
    )


EDGES = [
    case(
        observed(peers=answer([replace(peer, mode="mooncake-tcp") for peer in probed(CUT)])),
        "TransportReady",
        "False",
        "PeerUnreachable",
        "digits-denoiser-0 can't pull from digits-encoder-0: connection refused",
        spec="transport: {edges: {denoiserToDecoder: {protocol: tcp}}}",
        id="a pair that can't reach each other, by edge",
    ),
    case(
        observed(peers=by_edge("tcp", "tcp", "rdma", "rdma")),
        "TransportReady",
        "True",
        "InUse",
        "peers use encoder to denoiser tcp, denoiser to decoder rdma",
        spec=BY_EDGE,
        id="each edge as was asked for",
    ),
    case(
        observed(peers=by_edge("tcp", "tcp", "tcp", "tcp")),
        "TransportReady",
        "False",
        "FallbackToTCP",
        "denoiser to decoder uses tcp, not rdma as spec.transport asks for",
        spec=BY_EDGE,
        id="an edge that was to be rdma",
    ),
    case(
        observed(peers=by_edge("tcp", "tcp", "tcp", "tcp")),
        "Ready",
        "False",
        "TransportDegraded",
        "denoiser to decoder uses tcp",
        spec=BY_EDGE,
        id="an edge that forbids TCP keeps a pipeline from being ready on it (I10)",
    ),
    case(
        observed(peers=by_edge("tcp", "tcp", "tcp", "tcp")),
        "Ready",
        "True",
        "Ready",
        "all roles are ready; denoiser to decoder uses tcp",
        spec=EITHER,
        id="an edge that may fall back does",
    ),
    case(
        observed(peers=by_edge("tcp", "rdma", "rdma", "rdma")),
        "TransportReady",
        "False",
        "MixedModes",
        "encoder to denoiser: peers use rdma and tcp",
        spec=BY_EDGE,
        id="the ends of an edge differ",
    ),
    case(
        observed(peers=answer([])),
        "TransportReady",
        "Unknown",
        "NoPeers",
        "no peer has said",
        spec=BY_EDGE,
        id="nobody to ask of any edge",
    ),
]

CASES = [*ROUTER, *PEERS, *TRANSPORT, *EDGES]
