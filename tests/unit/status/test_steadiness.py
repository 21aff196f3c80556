"""Whatever is observed: the same again writes nothing, times move with what they date alone, Ready keeps its word."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

from hypothesis import assume, given
from hypothesis import strategies as st

from diffusion_operator.api import MODEL_ROLES, Pipeline, Role, crd
from diffusion_operator.api.schema import schema_errors, unknown_fields
from diffusion_operator.status import reasons, summarise
from diffusion_operator.status.finding import conditions_by_type
from diffusion_operator.status.observed import (
    Fault,
    LoadingSeen,
    Observed,
    PeerSeen,
    PeersObserved,
    PodProblem,
    Refusal,
    RoleObserved,
    UpdateObserved,
)
from unit.status.seen import (
    ALL_COLOCATED,
    BY_EDGE,
    EXTERNAL,
    GENERATION,
    NOW,
    OLD,
    RDMA,
    RDMA_OR_NOTHING,
    SUSPENDED,
    UNREACHABLE,
    fault,
    peer,
    pipeline,
    role,
)

PIPELINES = tuple(map(pipeline, ("", RDMA, RDMA_OR_NOTHING, BY_EDGE, EXTERNAL, ALL_COLOCATED, SUSPENDED)))
WORDS = st.sampled_from(["", "0/5 nodes are available: 5 Insufficient rdma/hca", "no usable RDMA device", "boom"])
COUNTS = st.integers(0, 3)

PROBLEMS = st.builds(
    PodProblem,
    pod=st.sampled_from([f"digits-denoiser-{number}" for number in range(3)]),
    reason=st.sampled_from(reasons.POD_PROBLEMS),
    message=WORDS,
)
# Of a pod one problem is known, and of its refusals the latest.
SOME_PROBLEMS = st.lists(PROBLEMS, max_size=3, unique_by=lambda problem: problem.pod).map(tuple)
REFUSALS = st.builds(Refusal, reason=st.sampled_from(reasons.REFUSALS), message=WORDS)


@st.composite
def roles(draw: st.DrawFn) -> RoleObserved:
    desired = draw(COUNTS)
    counts = st.one_of(st.just(desired), COUNTS)
    return RoleObserved(
        exists=draw(st.integers(0, 9)) > 0,
        desired=desired,
        replicas=draw(counts),
        ready=draw(counts),
        available=draw(counts),
        updated=draw(counts),
        current_revision="r1",
        update_revision=draw(st.sampled_from(["r1", "r2"])),
        observed=draw(st.integers(0, 9)) > 0,
        problems=draw(SOME_PROBLEMS),
        refusals=draw(st.lists(REFUSALS, max_size=1).map(tuple)),
        held=draw(st.sampled_from([0, 0, 1])),
        generation=GENERATION,
    )


PEERS = st.builds(
    PeerSeen,
    pod=st.just("digits-x-0"),
    roles=st.sampled_from([*((each,) for each in MODEL_ROLES), MODEL_ROLES]),
    generation=st.sampled_from([GENERATION, GENERATION, OLD]),
    mode=st.sampled_from(["mooncake-tcp", "mooncake-tcp", "mooncake-rdma", "shm", ""]),
    pulls=st.sampled_from(["", "", "mooncake-tcp", "mooncake-rdma"]),
    bytes_per_second=st.sampled_from([None, 1.9e9, 34e6]),
    state=st.sampled_from(["ready", "ready", "suspect", "draining", "stalled"]),
)
LOADING = st.builds(
    LoadingSeen,
    pod=st.sampled_from(["digits-x-0", "digits-x-1"]),
    roles=st.sampled_from([*((each,) for each in MODEL_ROLES), MODEL_ROLES]),
    generation=st.sampled_from([GENERATION, OLD]),
    bytes=st.integers(0, 10),
    size=st.just(10),
)
ANSWERS = st.builds(
    PeersObserved,
    reachable=st.just(True),
    loading=st.lists(LOADING, max_size=3).map(tuple),
    peers=st.one_of(
        st.lists(PEERS, max_size=9).map(tuple),
        st.sampled_from(["mooncake-tcp", "mooncake-rdma"]).map(
            lambda mode: (peer(Role.ENCODER, roles=MODEL_ROLES, mode=mode),) * 2
        ),
    ),
)
UPDATES = st.one_of(
    st.none(),
    st.just(UpdateObserved(operator="9.1", current="c")),
    st.builds(
        UpdateObserved,
        operator=st.just("9.1"),
        current=st.just("c"),
        available=st.sampled_from("ab"),
        changes=st.just(("router: spec",)),
        waits=st.sampled_from(reasons.UPGRADE_WAITS),
    ),
)
WHOLE = st.integers(1, 2).map(role)


def observations(
    each: st.SearchStrategy[RoleObserved], faults: st.SearchStrategy[Fault | None]
) -> st.SearchStrategy[Observed]:
    return st.builds(
        Observed,
        generation=st.integers(1, 3),
        roles=st.fixed_dictionaries(dict.fromkeys(Role, each)),
        fault=faults,
        peers=st.one_of(st.none(), st.just(UNREACHABLE), ANSWERS),
        scaling_faults=st.sampled_from([(), (), (fault("NameConflict"),)]),
        update=UPDATES,
        rdma_resources=st.sampled_from([None, (), ("rdma/other",)]),
    )


OBSERVED = observations(
    st.one_of(WHOLE, roles()), st.one_of(st.none(), st.sampled_from([fault(reason) for reason in reasons.FAULTS]))
)
NEARLY_READY = observations(st.one_of(*[WHOLE] * 7, roles()), st.none())
ANY_PIPELINE = st.sampled_from(PIPELINES)
SECONDS = st.integers(0, 10_000).map(lambda seconds: timedelta(seconds=seconds))


@given(ANY_PIPELINE, st.one_of(st.none(), OBSERVED), OBSERVED, SECONDS)
def test_the_same_again_writes_nothing(
    pipeline: Pipeline, earlier: Observed | None, seen: Observed, passed: timedelta
) -> None:
    previous = None if earlier is None else summarise(pipeline, earlier, None, NOW)
    once = summarise(pipeline, seen, previous, NOW + passed)
    assert summarise(pipeline, seen, once, NOW + passed) == once


@given(ANY_PIPELINE, OBSERVED)
def test_time_alone_changes_nothing_before_a_deadline(pipeline: Pipeline, seen: Observed) -> None:
    once = summarise(pipeline, seen, None, NOW)
    assert summarise(pipeline, seen, once, NOW + timedelta(seconds=1800)) == once


@given(ANY_PIPELINE, OBSERVED, OBSERVED, SECONDS)
def test_the_time_of_a_condition_moves_with_its_status_alone(
    pipeline: Pipeline, earlier: Observed, seen: Observed, passed: timedelta
) -> None:
    previous = summarise(pipeline, earlier, None, NOW)
    before = conditions_by_type(previous)
    for kind, now in conditions_by_type(summarise(pipeline, seen, previous, NOW + passed)).items():
        if now["status"] == before[kind]["status"]:
            assert now["lastTransitionTime"] == before[kind]["lastTransitionTime"]
        else:
            assert now["lastTransitionTime"] == (NOW + passed).strftime("%Y-%m-%dT%H:%M:%SZ")


@given(ANY_PIPELINE, NEARLY_READY)
def test_ready_means_that_nothing_it_rests_on_is_false(pipeline: Pipeline, seen: Observed) -> None:
    """TCP among it, where the pipeline forbids to fall back to it (I10)."""
    found = conditions_by_type(summarise(pipeline, seen, None, NOW))
    assume(found["Ready"]["status"] == "True")
    assert {found[kind]["status"] for kind in ("Reconciled", "Available")} == {"True"}
    rests_on = {kind: found[kind] for kind in ("RouterReady", "PeersRegistered", "ModelReady", "TransportReady")}
    denied = {kind: one["reason"] for kind, one in rests_on.items() if one["status"] == "False"}
    if pipeline.transport.fallback == "Allow":
        assert denied in ({}, {"TransportReady": "FallbackToTCP"})
    else:
        assert denied == {}


@given(ANY_PIPELINE, OBSERVED, st.randoms(use_true_random=False))
def test_the_order_of_what_was_seen_does_not_matter(pipeline: Pipeline, seen: Observed, chance: random.Random) -> None:
    def shuffled(items: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(chance.sample(items, len(items)))

    roles = {each: replace(one, problems=shuffled(one.problems)) for each, one in seen.roles.items()}
    peers = None if seen.peers is None else replace(seen.peers, peers=shuffled(seen.peers.peers))
    mixed = replace(seen, roles=roles, peers=peers)
    assert summarise(pipeline, mixed, None, NOW) == summarise(pipeline, seen, None, NOW)


@given(ANY_PIPELINE, OBSERVED)
def test_the_definition_allows_it_and_its_reasons_are_known(pipeline: Pipeline, seen: Observed) -> None:
    status = summarise(pipeline, seen, None, NOW)
    schema = crd.schema()["properties"]["status"]
    assert [*schema_errors(status, schema), *unknown_fields(status, schema)] == []
    for kind, found in conditions_by_type(status).items():
        assert found["reason"] in reasons.CONDITIONS[kind]
