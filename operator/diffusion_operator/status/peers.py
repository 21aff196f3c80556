"""What the router's registry tells: who is registered, and how tensors travel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from diffusion_operator.api import MODEL_ROLES, Pipeline, Role
from diffusion_operator.status import reasons
from diffusion_operator.status.finding import Finding, false, true, unknown
from diffusion_operator.status.observed import Observed, PeerSeen, RoleObserved
from diffusion_operator.status.roles import observed_role, problem_text, problems_of, workers
from diffusion_operator.status.wording import count, listed
from diffusionpipeline.words import portion, rate_text

RDMA: Final = "rdma"
TCP: Final = "tcp"
SHM: Final = "shm"
MIXED: Final = "mixed"
UNKNOWN: Final = "unknown"

_NETWORKS: Final = {"mooncake-rdma": RDMA, "mooncake-tcp": TCP, "tcp": TCP, "shm": SHM}
_ONE: Final = {Role.ENCODER: "an encoder", Role.DENOISER: "a denoiser"}
_READY: Final = "ready"
_SUSPECT: Final = "suspect"
_STALLED: Final = "stalled"


def generation_id(pipeline: Pipeline, observed: Observed) -> str:
    """The generation that worker pods are made for; empty before there are any."""
    return next((seen.generation for _, seen in workers(pipeline, observed) if seen.generation), "")


def known_peers(observed: Observed) -> tuple[PeerSeen, ...] | None:
    """None: the router did not answer, or was not asked."""
    return observed.peers.peers if observed.peers is not None and observed.peers.reachable else None


def downloads(pipeline: Pipeline, observed: Observed, roles: Collection[Role]) -> str:
    """How far these roles' workers are with downloading the model, each role by the one that is behind the others.

    `denoiser at 41 %, 3.2 of 7.8 GiB (digits-denoiser-0)`. Empty: none is at it, or nobody can tell.
    """
    if observed.peers is None or not observed.peers.reachable:
        return ""
    generation = generation_id(pipeline, observed)
    seen = [one for one in observed.peers.loading if not generation or one.generation == generation]
    told = []
    for role in roles:
        if at_it := [one for one in seen if role in one.roles]:
            last = min(at_it, key=lambda one: (one.bytes / max(1, one.size), one.pod))
            told.append(f"{role} at {portion(last.bytes, last.size)} ({last.pod})")
    return ", ".join(told)


def no_answer(pipeline: Pipeline, observed: Observed) -> Finding | None:
    """Why nothing is known of the peers."""
    if pipeline.suspended:
        return unknown(reasons.SUSPENDED, "spec.suspend is true: there are no peers")
    if observed_role(pipeline, observed, Role.ROUTER).ready == 0:
        return unknown(reasons.ROUTER_NOT_READY, "the router, which knows the peers, is not ready")
    if observed.peers is None:
        return unknown(reasons.ROUTER_NOT_ASKED, "the router has not been asked yet")
    if not observed.peers.reachable:
        return unknown(
            reasons.ROUTER_UNREACHABLE,
            f"the router is ready but does not answer the operator by gRPC: {observed.peers.error}; see whether a "
            "NetworkPolicy lets the operator in",
        )
    return None


def counted(pipeline: Pipeline, observed: Observed) -> tuple[int, int]:
    """Peers of the generation that are ready, and worker pods that are ready: as many peers are expected."""
    current = _of_generation(known_peers(observed) or (), generation_id(pipeline, observed))
    expected = sum(_expected(seen) for _, seen in workers(pipeline, observed))
    return sum(peer.state == _READY for peer in current), expected


def peers_registered(pipeline: Pipeline, observed: Observed) -> Finding:
    for role, seen in workers(pipeline, observed):
        if refused := problems_of(seen, (reasons.INCOMPATIBLE,)):
            return false(reasons.INCOMPATIBLE, f"{role}: {problem_text(pipeline, observed, refused)}")
    nothing_known = no_answer(pipeline, observed)
    if nothing_known is not None:
        return nothing_known
    generation = generation_id(pipeline, observed)
    together = {spec.role: set(roles) for spec, roles in pipeline.workers()}
    expected = 0
    lacking = []
    for role, seen in workers(pipeline, observed):
        ready = _expected(seen)
        expected += ready
        peers = [peer for peer in known_peers(observed) or () if together[role] <= set(peer.roles)]
        here = sum(peer.state == _READY for peer in _of_generation(peers, generation))
        if here < ready:
            lacking.append(_lacking(role, peers, generation, here, ready))
    if lacking:
        # Of a rollout's many small lacks the one is told that explains the others.
        order = (reasons.GENERATION_MISMATCH, reasons.PEER_STALLED, reasons.PEER_SUSPECT, reasons.PEERS_MISSING)
        return min(lacking, key=lambda found: order.index(found.reason))
    if not expected:
        return false(reasons.NO_READY_WORKERS, "no worker pod is ready")
    return true(reasons.REGISTERED, "every ready worker pod is registered with the router")


def transport_ready(pipeline: Pipeline, observed: Observed) -> Finding:
    for role, seen in workers(pipeline, observed):
        if failed := problems_of(seen, (reasons.TRANSPORT_FAILED,)):
            message = problem_text(pipeline, observed, failed)
            return false(_transport_reason(message), f"{role}: {message}")
    nothing_known = no_answer(pipeline, observed)
    if nothing_known is not None:
        return nothing_known
    generation = generation_id(pipeline, observed)
    peers = known_peers(observed) or ()
    # While a rollout changes the transport, old and new peers differ and rightly so: they never meet.
    current = _of_generation(peers, generation) or list(peers)
    how = _by_edge(pipeline, current) if pipeline.transport.edges else _of_all(pipeline, observed, current)
    if isinstance(how, Finding):
        return how
    if not how.networks:
        return unknown(reasons.NO_PEERS, "no peer has said yet how tensors travel")
    if (unreachable := _unreachable(current)) is not None:
        return unreachable
    if how.fallen:
        return false(
            reasons.FALLBACK_TO_TCP,
            f"{listed(how.fallen)}, not rdma as spec.transport asks for: see whether {how.lacking} the RDMA resource "
            "and can open its device",
        )
    return true(reasons.IN_USE, f"peers use {how.networks}{_measured(current)}")


def all_probed(pipeline: Pipeline, observed: Observed) -> bool:
    """Whether every peer has pulled from one of each role whose outputs it reads, or found that it can't."""
    current = _of_generation(known_peers(observed) or (), generation_id(pipeline, observed))
    there = {role for peer in current for role in peer.roles}
    return all(
        any(probed.maker is maker for probed in peer.probed)
        for peer in current
        for maker, reader in pairwise(MODEL_ROLES)
        if reader in peer.roles and maker not in peer.roles and maker in there
    )


@dataclass(frozen=True)
class _Travel:
    """How tensors travel, in words, where all peers that meet can exchange them."""

    networks: str
    fallen: Sequence[str]
    """What uses another network than was asked for, in words."""
    lacking: str
    """Who may lack the resource then."""


def _of_all(pipeline: Pipeline, observed: Observed, peers: Sequence[PeerSeen]) -> _Travel | Finding:
    """Where all roles were told the same."""
    used = {role: _networks(peers, role) for role, _ in workers(pipeline, observed)}
    networks = sorted(set().union(*used.values()))
    if len(networks) > 1:
        each = "; ".join(f"{role} {listed(sorted(found))}" for role, found in used.items() if found)
        return false(
            reasons.MIXED_MODES,
            f"peers use different transports and can't exchange tensors: {each}. Give all roles the same devices, or "
            "set spec.transport.protocol to rdma or tcp",
        )
    fell = networks not in ([], [RDMA]) and _wants_rdma(pipeline.transport.protocol, pipeline.transport.fallback)
    return _Travel(next(iter(networks), ""), [f"peers use {networks[0]}"] if fell else [], "worker pods are given")


def _by_edge(pipeline: Pipeline, peers: Sequence[PeerSeen]) -> _Travel | Finding:
    """Where roles were told apart: each edge by itself."""
    told: list[str] = []
    fallen: list[str] = []
    for maker, reader in pairwise(MODEL_ROLES):
        if pipeline.roles[maker].colocated or pipeline.roles[reader].colocated:
            continue
        edge = f"{maker} to {reader}"
        offered = {_NETWORKS.get(peer.mode, UNKNOWN) for peer in peers if maker in peer.roles}
        pulled = {_NETWORKS.get(peer.pulls or peer.mode, UNKNOWN) for peer in peers if reader in peer.roles}
        networks = sorted((offered | pulled) - {UNKNOWN})
        if not networks:
            continue
        if len(networks) > 1:
            return false(
                reasons.MIXED_MODES,
                f"{edge}: peers use {listed(networks)} and can't exchange tensors. Give both roles the same devices, "
                "or set the edge's protocol in spec.transport.edges to rdma or tcp",
            )
        told.append(f"{edge} {networks[0]}")
        if networks != [RDMA] and _wants_rdma(pipeline.transport.protocol_of(maker), pipeline.transport.fallback):
            fallen.append(f"{edge} uses {networks[0]}")
    return _Travel(", ".join(told), fallen, "pods of both roles are given")


def _unreachable(peers: Sequence[PeerSeen]) -> Finding | None:
    """What some peer tried again and again, and could not pull."""
    failing = [(peer, probed) for peer in peers for probed in peer.probed if probed.error]
    if not failing:
        return None
    peer, probed = min(failing, key=lambda one: (one[0].pod, one[1].maker))
    others = f" (and {count(len(failing) - 1, 'pair')} more)" if len(failing) > 1 else ""
    return false(
        reasons.PEER_UNREACHABLE,
        f"{peer.pod} can't pull from {probed.pod}{others}: {probed.error}. See whether NetworkPolicies and firewalls "
        "let workers connect to each other at the ports of spec.transport.rpcPortRange",
    )


def _measured(peers: Sequence[PeerSeen]) -> str:
    """What workers measured when they started: nothing in it moves while they live."""
    own = [peer.bytes_per_second for peer in peers if peer.bytes_per_second is not None]
    told = []
    if own:
        itself = "itself" if len(own) == 1 else "themselves"
        told.append(f"{count(len(own), 'worker')} pulled from {itself} at {_rates(own)}")
    for maker, reader in pairwise(MODEL_ROLES):
        found = [probed.bytes_per_second for peer in peers for probed in peer.probed if probed.maker is maker]
        if found:
            told.append(f"{count(len(found), reader)} from {_ONE[maker]} at {_rates(found)}")
    return f"; {', '.join(told)}" if told else ""


def _rates(found: Sequence[float]) -> str:
    slowest, fastest = rate_text(min(found)), rate_text(max(found))
    return slowest if slowest == fastest else f"{slowest} to {fastest}"


def _wants_rdma(protocol: str, fallback: str) -> bool:
    return protocol == "rdma" or (protocol == "auto" and fallback == "Deny")


def transport_of(observed: Observed, role: Role) -> str:
    found = sorted(_networks(known_peers(observed) or (), role))
    return MIXED if len(found) > 1 else found[0] if found else UNKNOWN


def _networks(peers: Sequence[PeerSeen], role: Role) -> set[str]:
    return {_NETWORKS[peer.mode] for peer in peers if role in peer.roles and peer.mode in _NETWORKS}


def _of_generation(peers: Sequence[PeerSeen], generation: str) -> list[PeerSeen]:
    return [peer for peer in peers if not generation or peer.generation == generation]


def _expected(seen: RoleObserved) -> int:
    """Pods that leave are ready for a while still."""
    return min(seen.ready, seen.desired)


def _lacking(role: Role, peers: Sequence[PeerSeen], generation: str, here: int, ready: int) -> Finding:
    message = f"{role}: {here} of {count(ready, 'ready pod')} registered"
    others = {peer.generation for peer in peers if generation and peer.generation != generation}
    if others:
        return false(
            reasons.GENERATION_MISMATCH,
            f"{message} at generation {generation}, others at {listed(sorted(others))}: peers of different generations "
            "do not work together until the rollout is through",
        )
    stalled = sum(peer.state == _STALLED for peer in peers)
    if stalled:
        return false(
            reasons.PEER_STALLED,
            f"{message}; {count(stalled, 'peer')} did not stop a task when told to, and gets no more",
        )
    suspect = sum(peer.state == _SUSPECT for peer in peers)
    if suspect:
        return false(reasons.PEER_SUSPECT, f"{message}; the router does not hear from {count(suspect, 'peer')}")
    return false(reasons.PEERS_MISSING, message)


def _transport_reason(message: str) -> str:
    text = message.lower()
    if "memlock" in text or "locked-memory" in text or "cannot allocate memory" in text:
        return reasons.MEMLOCK_LIMIT
    if "no usable rdma device" in text or "has no rdma" in text:
        return reasons.NO_DEVICE
    return reasons.TRANSPORT_FAILED
