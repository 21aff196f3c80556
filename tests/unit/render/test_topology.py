"""Worker pods that are to be near one another: an affinity to their own pipeline's, which the router has none of."""

from __future__ import annotations

import pytest

from diffusion_operator.api import InvalidResourceError
from diffusion_operator.render import render
from unit.render.children import Child, pipeline, pod_spec, stateful_sets, workers

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
ZONE = "topology.kubernetes.io/zone"


def pod_affinity(stateful_set: Child) -> Child:
    found: Child = pod_spec(stateful_set)["affinity"]["podAffinity"]
    return found


def matches(selector: Child, stateful_set: Child) -> bool:
    labels = stateful_set["spec"]["template"]["metadata"]["labels"]
    (expression,) = selector["matchExpressions"]
    assert expression["operator"] == "In"
    return selector["matchLabels"].items() <= labels.items() and labels[expression["key"]] in expression["values"]


def test_each_worker_must_be_where_the_pipelines_other_workers_are() -> None:
    children = render(pipeline(topology={"key": ZONE, "mode": "Require"}))
    others = render(pipeline(topology={"key": ZONE, "mode": "Require"}, roles={"denoiser": {"replicas": 2}}))
    for worker in workers(children):
        assert pod_affinity(worker).keys() == {REQUIRED}
        (term,) = pod_affinity(worker)[REQUIRED]
        assert term["topologyKey"] == ZONE
        # Its own role too, or the first pod of all could not be placed.
        assert all(matches(term["labelSelector"], other) for other in workers(others))
        assert not matches(term["labelSelector"], stateful_sets(children)["router"])
    assert "affinity" not in pod_spec(stateful_sets(children)["router"])


@pytest.mark.parametrize("topology", [{"key": ZONE}, {"key": ZONE, "mode": "Prefer"}, {"key": ZONE, "mode": None}])
def test_what_is_preferred_keeps_no_pod_from_running(topology: Child) -> None:
    (required,) = pod_affinity(workers(render(pipeline(topology={"key": ZONE, "mode": "Require"})))[0])[REQUIRED]
    for worker in workers(render(pipeline(topology=topology))):
        assert pod_affinity(worker) == {PREFERRED: [{"weight": 100, "podAffinityTerm": required}]}


@pytest.mark.parametrize(("mode", "when"), [("Require", REQUIRED), ("Prefer", PREFERRED)])
def test_the_users_own_terms_come_first_and_stay(mode: str, when: str) -> None:
    term = {"topologyKey": "rack", "labelSelector": {"matchLabels": {"app": "cache"}}}
    own = {REQUIRED: [term], PREFERRED: [{"weight": 1, "podAffinityTerm": term}]}
    affinity = {"podAffinity": own, "podAntiAffinity": {REQUIRED: [term]}}
    given = pipeline(topology={"key": ZONE, "mode": mode}, roles={"decoder": {"affinity": affinity}})
    found = pod_spec(stateful_sets(render(given))["decoder"])["affinity"]
    assert found["podAntiAffinity"] == affinity["podAntiAffinity"]
    assert {key: terms[:1] for key, terms in found["podAffinity"].items()} == own
    assert {key: len(terms) for key, terms in found["podAffinity"].items()} == {
        REQUIRED: 1,
        PREFERRED: 1,
        when: 2,
    }
    assert render(given) == render(given)


def test_terms_to_which_none_can_be_added_are_refused() -> None:
    affinity = {"podAffinity": {PREFERRED: {"weight": 1}}}
    with pytest.raises(InvalidResourceError, match=rf"roles.decoder.affinity.podAffinity.{PREFERRED}: must be a list"):
        pipeline(topology={"key": ZONE}, roles={"decoder": {"affinity": affinity}})


def test_on_the_hosts_network_workers_are_near_but_not_on_one_node() -> None:
    given = pipeline(
        transport={"protocol": "auto", "rdma": {"hostNetwork": True}},
        networkPolicy={"mode": "None"},
        topology={"key": ZONE, "mode": "Require"},
    )
    for worker in workers(render(given)):
        affinity = pod_spec(worker)["affinity"]
        assert [term["topologyKey"] for term in affinity["podAffinity"][REQUIRED]] == [ZONE]
        assert [term["topologyKey"] for term in affinity["podAntiAffinity"][REQUIRED]] == ["kubernetes.io/hostname"]
