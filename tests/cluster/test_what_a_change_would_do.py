"""What `dpipe diff` says of a change is what the change does; and `dpipe rollback` undoes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cluster.user import DIGITS, ROLES, User
from dpipe.app import app
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator
from testbed.controlplane.pipelines import GROUP

OLD = ("--worker-image=example/worker:1", "--router-image=example/router:1")
NEW = ("--worker-image=example/worker:2", "--router-image=example/router:2")
ROLES_OF = {"encoder": {"replicas": 2}, "denoiser": {"replicas": 2}, "decoder": {"replicas": 1}}

# Each on top of those before.
EDITS: dict[str, dict[str, Any]] = {
    "a variable of one role": {"roles": {**ROLES_OF, "decoder": {"replicas": 1, "env": [{"name": "A", "value": "1"}]}}},
    "another image": {"image": {"tag": "7"}},
    "one pod more": {"roles": {**ROLES_OF, "encoder": {"replicas": 3}}},
    "one pod less, and another place": {
        "roles": {**ROLES_OF, "denoiser": {"replicas": 1, "tolerations": [{"key": "spot", "operator": "Exists"}]}}
    },
    "a setting of the router": {"router": {"maxQueuedRequests": 7}},
    "an order of jobs": {"scheduling": {"policy": "Deadline", "targetFactor": 2.5, "lateShare": 0}},
    "a Service": {"router": {"service": {"type": "NodePort"}}},
    "to be moved when idle": {"update": {"policy": "WhenIdle"}},
    "nothing": {},
}

OTHERS = {
    "one pod less, and another place": ["PodDisruptionBudget digits-denoiser: removed"],
    "a Service": ["Service digits-router-api: spec.type, spec.ports[grpc]"],
}

Operators = Callable[..., Operator]
Dpipe = Callable[..., tuple[int, str]]
Diff = Callable[..., tuple[int, Any]]


@pytest.fixture
def user(cluster: Cluster, namespace: str) -> User:
    return User(cluster, namespace, "digits")


@pytest.fixture
def dpipe(cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Dpipe:
    """Runs it in the test's namespace: its exit status, and what it printed."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setenv("PATH", str(cluster.programs), prepend=":")

    def run(*arguments: str, given: str | None = None) -> tuple[int, str]:
        result = CliRunner().invoke(app, [*arguments, "-n", namespace], input=given, catch_exceptions=False)
        return result.exit_code, result.output

    return run


@pytest.fixture
def diff(dpipe: Dpipe) -> Diff:
    def run(*arguments: str, given: str | None = None) -> tuple[int, Any]:
        status, text = dpipe("diff", *arguments, given=given)
        return status, json.loads(text) if "--json" in arguments and status < 2 else text

    return run


def uids(user: User) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for role in ROLES for pod in user.pods(role)}


def until_done(user: User) -> None:
    user.until_ready(60)
    user.cluster.until(
        lambda: all(not pod["metadata"].get("deletionTimestamp") for role in ROLES for pod in user.pods(role)),
        30,
        "pods that go are gone",
    )


def told(plan: Any) -> dict[str, tuple[int, int, int]]:
    return {role["workload"]: (role["before"], role["after"], role["replaced"]) for role in plan["roles"]}


def happened(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[int, int, int]]:
    found = {}
    for role in ROLES:
        workload = f"digits-{role}"
        old, new = ({n: uid for n, uid in pods.items() if n.startswith(f"{workload}-")} for pods in (before, after))
        replaced = sum(name in new and new[name] != uid for name, uid in old.items())
        if replaced or len(old) != len(new):
            found[workload] = (len(old), len(new), replaced)
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("applied", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_each_edit_does_what_was_told(user: User, operators: Operators, diff: Diff, applied: tuple[str, ...]) -> None:
    operators(*OLD)
    spec = {**DIGITS, "roles": ROLES_OF}
    user.kubectl("apply", *applied, "-f", "-", stdin=yaml.safe_dump(user.resource(spec)))
    until_done(user)
    for what, edit in EDITS.items():
        before = uids(user)
        spec |= edit
        manifest = yaml.safe_dump(user.resource(spec))
        status, [plan] = diff("-f", "-", "--json", *applied, given=manifest)
        assert uids(user) == before, what
        user.kubectl("apply", *applied, "-f", "-", stdin=manifest)
        until_done(user)
        assert told(plan) == happened(before, uids(user)), what
        assert status == int(bool(plan["roles"] or plan["others"])), what
        assert plan["others"] == OTHERS.get(what, []), what
        assert all(role["seconds"] is not None for role in plan["roles"] if role["replaced"]), what


def test_an_upgrade_does_what_was_told_once_the_pipeline_moves(user: User, operators: Operators, diff: Diff) -> None:
    old = operators(*OLD)
    user.make(roles=ROLES_OF)
    until_done(user)
    before = uids(user)
    status, [plan] = diff("--json", *NEW)
    assert (status, told(plan)) == (
        1,
        {
            "digits-encoder": (2, 2, 2),
            "digits-denoiser": (2, 2, 2),
            "digits-decoder": (1, 1, 1),
            "digits-router": (1, 1, 1),
        },
    )
    assert all("spec.containers[main].image" in role["why"] for role in plan["roles"])
    assert diff("--json", *OLD)[0] == 0
    old.stop()
    operators(*NEW)
    user.until_condition("UpgradeAvailable", "True", "Held")
    assert uids(user) == before
    # An edit brings nothing of it along, unless it says so.
    available = user.status()["update"]["available"]
    for edit, roles in ({}, {}), ({"update": {"to": available}}, told(plan)):
        manifest = yaml.safe_dump(user.resource({**DIGITS, "roles": ROLES_OF, **edit}))
        _, [found] = diff("-f", "-", "--json", "--server-side", *NEW, given=manifest)
        assert (told(found), found["warnings"]) == (roles, plan["warnings"] if roles else [])
    _, text = diff("-f", "-", "--server-side", given=manifest)
    assert f"would make {available} of it, which this dpipe can't without --worker-image and --router-image" in text
    user.edit(update={"to": available})
    user.until_condition("UpgradeAvailable", "False", "UpToDate")
    until_done(user)
    assert told(plan) == happened(before, uids(user))


@pytest.mark.thorough
def test_a_pipeline_goes_back_to_what_its_pods_were_made_of_before(
    user: User, operators: Operators, dpipe: Dpipe
) -> None:
    old = operators(*OLD)
    user.make(roles=ROLES_OF)
    until_done(user)
    user.edit(image={"tag": "7"})
    until_done(user)
    assert user.images() == {"example/worker:7", "example/router:1"}
    assert dpipe("rollback", "digits") == (0, f"digits goes back to revision 1 ({_digest(user, 1)})\n")
    until_done(user)
    assert user.images() == {"example/worker:1", "example/router:1"}
    assert "image" not in user.live()["spec"]
    # Of an operator's upgrade too, and so that the pipeline does not move by itself again.
    user.edit(update={"policy": "Rolling", "to": None})
    old.stop()
    operators(*NEW)
    user.cluster.until(lambda: user.images() == {"example/worker:2", "example/router:2"}, 60, "it has moved")
    until_done(user)
    user.edit(roles={"decoder": {"replicas": 2}})
    until_done(user)
    status, text = dpipe("rollback", "digits")
    assert status == 0, text
    user.cluster.until(lambda: user.images() == {"example/worker:1", "example/router:1"}, 60, "it has gone back")
    until_done(user)
    user.until_condition("UpgradeAvailable", "True", "RolledBack", "names the revision before it")
    assert len(user.pods("decoder")) == 2
    _, text = dpipe("revisions", "digits")
    assert "serves; gone back from" in text.splitlines()[1]
    assert dpipe("rollback", "digits", "--to-revision", "77")[0] == 1


def _digest(user: User, number: int) -> str:
    found = user.api.items(f"/apis/apps/v1/namespaces/{user.namespace}/controllerrevisions")
    labels = (item["metadata"]["labels"] for item in found if item["revision"] == number)
    return next(str(each[f"{GROUP}/templates"]) for each in labels if f"{GROUP}/templates" in each)


def test_what_is_not_there_yet_is_made(user: User, diff: Diff) -> None:
    status, text = diff("-f", "-", given=yaml.safe_dump(user.resource(DIGITS)))
    assert status == 1
    assert f"{user.namespace}/digits\n  digits-encoder: 0 -> 1 pod; not known how long a start takes" in text


def test_what_the_api_server_refuses_is_said_in_its_words(user: User, diff: Diff) -> None:
    bad = user.resource({**DIGITS, "roles": {"denoiser": {"replicas": -1}}})
    status, text = diff("-f", "-", given=yaml.safe_dump(bad))
    assert status == 2
    assert "spec.roles.denoiser.replicas" in text
