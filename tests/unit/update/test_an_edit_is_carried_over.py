"""An edit is done to what was made before, and nothing else of what is made now."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_operator.update.carry import carried

MAIN = {"name": "main", "image": "w:1", "args": ["--role", "encoder"]}


def pod(**main: Any) -> dict[str, Any]:
    return {"spec": {"containers": [MAIN | main]}}


def env(**values: str) -> dict[str, Any]:
    return {"env": [{"name": name, "value": value} for name, value in values.items()]}


@pytest.mark.parametrize(
    ("held", "base", "wanted", "found"),
    [
        (pod(), pod(image="w:2"), pod(image="w:2"), pod()),
        (pod(), pod(image="w:2"), pod(image="w:3"), pod(image="w:3")),
        (pod(**env(OLD="1")), pod(**env(NEW="1")), pod(**env(NEW="1", USERS="x")), pod(**env(OLD="1", USERS="x"))),
        (pod(**env(A="1", B="1")), pod(**env(A="1", B="2")), pod(**env(B="2")), pod(**env(B="1"))),
        (pod(**env(A="1")), pod(**env(A="1", B="1")), pod(**env(A="2", B="1")), pod(**env(A="2"))),
        (pod(), pod(args=["--role=encoder"]), pod(args=["--role=encoder", "-v"]), pod(args=["--role=encoder", "-v"])),
        (pod(), pod(tty=True), pod(tty=True, stdin=True), pod(stdin=True)),
        (
            pod(resources={"limits": {"cpu": "1"}}),
            pod(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}),
            pod(resources={"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}),
            pod(resources={"limits": {"cpu": "2"}}),
        ),
        ({"spec": {}}, {"spec": {"a": 1}}, {"spec": {}}, {"spec": {}}),
        ({"spec": {"a": 0}}, {"spec": {"a": 1}}, {"spec": {}}, {"spec": {}}),
    ],
    ids=["nothing", "image", "added", "removed", "changed", "args", "field", "nested", "gone", "goes"],
)
def test_an_edit_and_nothing_else_is_done(held: Any, base: Any, wanted: Any, found: Any) -> None:
    assert carried(held, base, wanted) == found


def test_a_variable_that_gets_another_source_has_one() -> None:
    secret = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    found = carried(pod(**env(A="1", B="1")), pod(**env(A="2", B="1")), pod(env=[secret, {"name": "B", "value": "1"}]))
    assert found["spec"]["containers"][0]["env"] == [secret, {"name": "B", "value": "1"}]


def test_a_container_of_the_users_comes_and_goes() -> None:
    sidecar = {"name": "sidecar", "image": "s"}
    now = pod(image="w:2")
    both = {"spec": {"containers": [*now["spec"]["containers"], sidecar]}}
    held = carried(pod(), now, both)
    assert held["spec"]["containers"] == [MAIN, sidecar]
    assert carried(held, both, now) == pod()


def test_items_without_keys_of_their_own_are_taken_whole() -> None:
    ports = [{"containerPort": 1, "protocol": "TCP"}, {"containerPort": 1, "protocol": "UDP"}]
    assert carried(pod(ports=[]), pod(), pod(ports=ports)) == pod(ports=ports)


TREES = st.recursive(
    st.one_of(st.integers(0, 3), st.lists(st.integers(0, 2), max_size=2)),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


@given(OBJECTS, OBJECTS)
def test_no_edit_changes_nothing(held: dict[str, Any], now: dict[str, Any]) -> None:
    assert carried(held, now, now) == held


@given(OBJECTS, OBJECTS)
def test_by_the_same_operator_an_edit_makes_what_it_would_make(base: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert carried(base, base, wanted) == wanted
