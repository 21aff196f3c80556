"""A live object differs only in what we send; what the API server and others add is theirs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_operator.render.difference import differences


def container(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "main", **fields}]}}


SAME = {
    "equal objects": ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2]}}),
    "fields that defaulting added": ({"a": 1}, {"a": 1, "terminationGracePeriodSeconds": 30}),
    "a sidecar that a webhook injected": (
        container(image="x"),
        {"spec": {"containers": [{"name": "proxy"}, {"name": "main", "image": "x"}]}},
    ),
    "a variable that somebody added": (
        container(env=[{"name": "A", "value": "1"}]),
        container(env=[{"name": "B", "value": "2"}, {"name": "A", "value": "1"}]),
    ),
    "a quantity in another form": (
        container(resources={"limits": {"memory": "1024Mi", "cpu": "1500m"}}),
        container(resources={"limits": {"memory": "1Gi", "cpu": "1.5"}}),
    ),
    "a quantity as a number": ({"emptyDir": {"sizeLimit": 1024}}, {"emptyDir": {"sizeLimit": "1Ki"}}),
    "an empty value that the API server dropped": ({"hostNetwork": False, "args": [], "x": {}, "y": ""}, {}),
    "a protocol that was defaulted": (
        {"ports": [{"name": "http", "port": 80}]},
        {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
    ),
    "a port that somebody added": (
        {"ports": [{"name": "http", "port": 80}]},
        {"ports": [{"name": "mine", "port": 81}, {"name": "http", "port": 80}]},
    ),
    "another annotation": (
        {"metadata": {"annotations": {"ours": "1"}}},
        {"metadata": {"annotations": {"ours": "1", "theirs": "2"}}},
    ),
    "a field whose feature the API server lacks": (
        {"updateStrategy": {"rollingUpdate": {"partition": 0, "maxUnavailable": 2}}},
        {"updateStrategy": {"rollingUpdate": {"partition": 0}}},
    ),
    "another owner besides": (
        {"ownerReferences": [{"uid": "1", "name": "a"}]},
        {"ownerReferences": [{"uid": "2", "name": "b"}, {"uid": "1", "name": "a"}]},
    ),
}

DIFFERENT = {
    "a value": ({"spec": {"replicas": 3}}, {"spec": {"replicas": 5}}, ["spec.replicas"]),
    "a missing value": ({"spec": {"replicas": 3}}, {"spec": {}}, ["spec.replicas"]),
    "a zero that is something": ({"spec": {"replicas": 0}}, {"spec": {"replicas": 1}}, ["spec.replicas"]),
    "a quantity": (
        container(resources={"limits": {"cpu": "100m"}}),
        container(resources={"limits": {"cpu": "200m"}}),
        ["spec.containers[main].resources.limits.cpu"],
    ),
    "a label more in a selector": (
        {"spec": {"selector": {"app": "x"}}},
        {"spec": {"selector": {"app": "x", "b": "y"}}},
        ["spec.selector"],
    ),
    "a label more in a network policy's peer": (
        {"from": [{"podSelector": {"matchLabels": {"app": "x"}}}]},
        {"from": [{"podSelector": {"matchLabels": {"app": "x", "b": "y"}}}]},
        ["from[0].podSelector.matchLabels"],
    ),
    "an image": (container(image="x"), container(image="y"), ["spec.containers[main].image"]),
    "a container that is gone": (container(), {"spec": {"containers": [{"name": "proxy"}]}}, ["spec.containers[main]"]),
    "a variable's value": (
        container(env=[{"name": "A", "value": "1"}]),
        container(env=[{"name": "A", "value": "2"}]),
        ["spec.containers[main].env[A].value"],
    ),
    "the length of a list": ({"args": ["a"]}, {"args": ["a", "b"]}, ["args"]),
    "the order of a list": ({"args": ["a", "b"]}, {"args": ["b", "a"]}, ["args[0]", "args[1]"]),
    "a mount": (
        container(volumeMounts=[{"mountPath": "/tmp", "name": "tmp"}]),
        container(volumeMounts=[{"mountPath": "/tmp", "name": "other"}]),
        ["spec.containers[main].volumeMounts[/tmp].name"],
    ),
    "an object where a text is": ({"a": {"b": 1}}, {"a": "x"}, ["a"]),
    "a type": ({"a": "1"}, {"a": 1}, ["a"]),
    "several fields at once": ({"a": 1, "b": {"c": 2}}, {"a": 2, "b": {"c": 3}}, ["a", "b.c"]),
}


@pytest.mark.parametrize(("wanted", "live"), SAME.values(), ids=SAME)
def test_no_difference_is(wanted: Any, live: Any) -> None:
    assert list(differences(wanted, live)) == []


@pytest.mark.parametrize(("wanted", "live", "paths"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_difference_is(wanted: Any, live: Any, paths: list[str]) -> None:
    assert list(differences(wanted, live)) == paths


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_nothing_differs_from_itself(value: Any) -> None:
    assert list(differences(value, value)) == []


@given(st.dictionaries(st.text(max_size=3), JSON, max_size=3), st.dictionaries(st.text(max_size=3), JSON, max_size=3))
def test_what_was_merged_over_the_live_object_does_not_differ(wanted: dict[str, Any], live: dict[str, Any]) -> None:
    assert list(differences(wanted, live | wanted)) == []
