"""Another operator replaces no pod of a fleet until it is told to, and then it moves a few pipelines at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest

from cluster.fake_router import FakeRouter
from cluster.user import ROLES, User
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator
from testbed.controlplane.proxy import Proxy
from testbed.earlier import LANDED, sources_of

OLD = ("--worker-image=example/worker:1", "--router-image=example/router:1")
NEW = ("--worker-image=example/worker:2", "--router-image=example/router:2")

Operators = Callable[..., Operator]


class Fleet:
    def __init__(self, cluster: Cluster, namespace: str, size: int) -> None:
        self.cluster = cluster
        self.users = [User(cluster, namespace, f"p{number}") for number in range(size)]

    def __iter__(self) -> Iterator[User]:
        return iter(self.users)

    def make(self, **spec: object) -> None:
        for user in self:
            user.make(**spec)
        for user in self:
            user.until_ready(60)

    def pods(self) -> dict[str, str]:
        """uids of all pods, by name."""
        return {
            pod["metadata"]["name"]: pod["metadata"]["uid"]
            for user in self
            for role in ROLES
            for pod in user.pods(role)
        }

    def not_ready(self) -> list[str]:
        """As one answer has them all."""
        return [
            live["metadata"]["name"]
            for live in self.users[0].api.items(self.users[0].pipelines)
            if not any((one["type"], one["status"]) == ("Ready", "True") for one in live["status"]["conditions"])
        ]

    def until(self, condition: Callable[[User], bool], what: str, seconds: float = 60) -> None:
        self.cluster.until(lambda: all(condition(user) for user in self), seconds, what, longest_pause=0.5)

    def until_compared(self, status: str, reason: str) -> None:
        for user in self:
            user.until_condition("UpgradeAvailable", status, reason)


def is_replaced(fleet: Fleet, name: str, before: dict[str, str]) -> bool:
    # Between the two there is none.
    return fleet.pods().get(name, before[name]) != before[name]


def is_moved(user: User) -> bool:
    return user.images() == {"example/worker:2", "example/router:2"} and user.condition("Ready").status == "True"


@pytest.fixture
def fleet(cluster: Cluster, namespace: str) -> Fleet:
    return Fleet(cluster, namespace, 3)


def upgraded(operators: Operators, before: Operator, *flags: str) -> Operator:
    before.stop()
    return operators(*NEW, *flags)


def test_an_upgrade_replaces_no_pod_and_says_what_it_would_change(fleet: Fleet, operators: Operators) -> None:
    old = operators(*OLD)
    fleet.make()
    fleet.until_compared("False", "UpToDate")
    pods = fleet.pods()
    upgraded(operators, old)
    fleet.until_compared("True", "Held")
    first = fleet.users[0]
    told = first.condition("UpgradeAvailable").message
    would = f"operator {version('diffusion-operator')} would change"
    assert f"{would} spec.containers[main].image (encoder, denoiser, decoder, router): it stays" in told
    assert f"until spec.update.to says {first.status()['update']['available']}" in told
    first.edit(roles={"denoiser": {"replicas": 2}})
    first.until_counts(denoiser=2)
    first.until_ready()
    assert first.images() == {"example/worker:1", "example/router:1"}
    assert pods.items() <= fleet.pods().items()


def test_an_edit_replaces_what_it_is_of_and_brings_nothing_else_along(fleet: Fleet, operators: Operators) -> None:
    old = operators(*OLD)
    fleet.make()
    pods = fleet.pods()
    upgraded(operators, old)
    fleet.until_compared("True", "Held")
    first = fleet.users[0]
    first.edit(roles={"decoder": {"env": [{"name": "MINE", "value": "1"}]}})
    first.cluster.until(lambda: is_replaced(fleet, "p0-decoder-0", pods), 30, "the decoder is replaced")
    first.until_ready()
    assert first.images() == {"example/worker:1", "example/router:1"}
    assert [name for name, uid in fleet.pods().items() if pods[name] != uid] == ["p0-decoder-0"]
    assert first.condition("UpgradeAvailable").reason == "Held"


@pytest.mark.thorough
def test_a_pipeline_moves_when_it_is_told_to_and_no_other(fleet: Fleet, operators: Operators) -> None:
    old = operators(*OLD)
    fleet.make()
    upgraded(operators, old)
    fleet.until_compared("True", "Held")
    by_spec, by_annotation, stays = fleet
    by_spec.edit(update={"to": by_spec.status()["update"]["available"]})
    note = f"diffusion-operator.dev/update-to={version('diffusion-operator')}"
    by_annotation.kubectl("annotate", "dpipe", by_annotation.name, note)
    fleet.cluster.until(lambda: is_moved(by_spec) and is_moved(by_annotation), 60, "two have moved")
    by_spec.until_condition("UpgradeAvailable", "False", "UpToDate")
    assert stays.images() == {"example/worker:1", "example/router:1"}
    revisions = by_spec.kubectl("get", "controllerrevisions", "-l", f"diffusion-operator.dev/pipeline={by_spec.name}")
    assert "DiffusionPipeline" in revisions or "diffusionpipeline" in revisions.lower()


@pytest.mark.parametrize("at_once", [pytest.param(1, marks=pytest.mark.thorough), 2])
def test_pipelines_that_move_by_themselves_do_so_a_few_at_a_time(
    cluster: Cluster, namespace: str, operators: Operators, at_once: int
) -> None:
    fleet = Fleet(cluster, namespace, 5)
    old = operators(*OLD)
    fleet.make(update={"policy": "Rolling"})
    new = upgraded(operators, old, f"--max-pipelines-rolling={at_once}")
    most, restarted = 0, False
    while not all(is_moved(user) for user in fleet):
        away = fleet.not_ready()
        most = max(most, len(away))
        assert len(away) <= at_once, away
        if most and not restarted:
            # Turns outlive the process that gave them.
            new.kill()
            new.start()
            restarted = True
    assert most == at_once


@pytest.mark.thorough
def test_outside_its_windows_a_pipeline_does_not_move_by_itself(fleet: Fleet, operators: Operators) -> None:
    def window(hours: int) -> list[JSON]:
        """That of two hours which begins so many hours from now."""
        return [{"start": f"{datetime.now(UTC) + timedelta(hours=hours):%H:%M}", "hours": 2}]

    old = operators(*OLD)
    fleet.make(update={"policy": "Rolling", "windows": window(3)})
    upgraded(operators, old)
    fleet.until_compared("True", "OutsideWindow")
    first = fleet.users[0]
    first.edit(update={"windows": window(-1)})
    fleet.cluster.until(lambda: is_moved(first), 60, "it has moved")
    assert fleet.users[1].images() == {"example/worker:1", "example/router:1"}


@pytest.mark.thorough
def test_a_pipeline_moves_when_it_is_idle(cluster: Cluster, namespace: str, operators: Operators) -> None:
    user = User(cluster, namespace, "digits")
    with FakeRouter() as router:
        old = operators(*OLD, router.flag)
        user.make(update={"policy": "WhenIdle"})
        user.until_condition("ModelReady", "True", "Loaded")
        router.register((pod for role in ("encoder", "denoiser", "decoder") for pod in user.pods(role)), "tcp")
        user.until_ready()
        upgraded(operators, old, router.flag)
        user.until_condition("UpgradeAvailable", "True", "Busy", "there are unfinished jobs")
        router.unfinished = 3
        asked = router.asked
        cluster.until(lambda: router.asked > asked + 1, 30, "it has said that there are jobs")
        assert user.condition("UpgradeAvailable").reason == "Busy"
        assert user.images() == {"example/worker:1", "example/router:1"}
        router.unfinished = 0
        cluster.until(lambda: user.images() == {"example/worker:2", "example/router:2"}, 90, "it moves")


@pytest.mark.thorough
def test_fifty_pipelines(cluster: Cluster, namespace: str, operators: Operators) -> None:
    fleet = Fleet(cluster, namespace, 50)
    old = operators(*OLD)
    fleet.make()
    pods = fleet.pods()
    new = upgraded(operators, old, "--max-pipelines-rolling=2")
    fleet.until_compared("True", "Held")
    assert fleet.pods() == pods
    for user in fleet:
        user.edit(update={"policy": "Rolling"})
    most = 0
    while any(user.status()["update"].get("available") for user in fleet):
        for _ in range(50):
            away = fleet.not_ready()
            most = max(most, len(away))
            assert len(away) <= 2, away
    assert most == 2
    assert new.exit_code is None
    fleet.until(is_moved, "all have moved")
    assert not pods.items() & fleet.pods().items()


@pytest.mark.thorough
def test_what_the_last_landed_operator_without_revisions_has_made_is_taken_over_as_it_is(
    fleet: Fleet, cluster: Cluster, proxy: Proxy, namespace: str, operators: Operators, tmp_path: Path
) -> None:
    """Really that one, whose templates are others."""
    flags = (f"--watch-namespaces={namespace}", *OLD)
    older = Operator(
        proxy.kubeconfig, *flags, log=tmp_path / "older.log", sources=sources_of(LANDED, tmp_path / "older")
    )
    with older:
        fleet.make()
        older.stop()
    assert not fleet.users[0].kubectl("get", "controllerrevisions", "-l", "diffusion-operator.dev/templates")
    pods = fleet.pods()
    operators(*OLD)
    fleet.until_compared("True", "Held")
    assert "env[POD_UID]" in fleet.users[0].condition("UpgradeAvailable").message
    first = fleet.users[0]
    first.edit(roles={"decoder": {"threads": 2}})
    cluster.until(lambda: is_replaced(fleet, "p0-decoder-0", pods), 30, "the decoder is replaced")
    first.until_ready()
    assert [name for name, uid in fleet.pods().items() if pods[name] != uid] == ["p0-decoder-0"]
    environment = first.stateful_set("decoder")["spec"]["template"]["spec"]["containers"][0]["env"]
    assert "POD_UID" not in {item["name"] for item in environment}
    first.edit(update={"to": first.status()["update"]["available"]})
    first.until_condition("UpgradeAvailable", "False", "UpToDate")
    first.until_ready()


@pytest.mark.thorough
def test_what_an_operator_without_revisions_has_made_is_taken_over_as_it_is(fleet: Fleet, operators: Operators) -> None:
    old = operators(*OLD)
    fleet.make()
    pods = fleet.pods()
    old.stop()
    for user in fleet:
        user.kubectl("delete", "controllerrevisions", "-l", "diffusion-operator.dev/templates")
    operators(*NEW)
    fleet.until_compared("True", "Held")
    assert fleet.pods() == pods
    assert fleet.users[0].images() == {"example/worker:1", "example/router:1"}
