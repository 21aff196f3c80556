"""`spec.update.surge`: another generation comes up beside the one that serves, and takes over, or goes again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cluster.fake_router import FakeRouter
from cluster.user import User
from diffusionpipeline.v1 import registry_pb2
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator

MODEL_ROLES = ("encoder", "denoiser", "decoder")
GENERATION = "diffusion-operator.dev/generation"

Operators = Callable[..., Operator]


class Surging:
    """A pipeline, and a router with which every ready pod is registered."""

    def __init__(self, user: User, router: FakeRouter, operators: Operators) -> None:
        self.user = user
        self.router = router
        self.operator = operators(router.flag)

    def make(self, seconds: int = 1, **surge: int) -> None:
        self.user.make(update={"surge": {"stepPercent": 50, "pauseSeconds": seconds, **surge}})
        self.user.until_condition("ModelReady", "True", "Loaded")
        self.until(lambda: self.user.condition("Ready").status == "True", "it is ready")

    def pods(self) -> list[JSON]:
        return [pod for role in MODEL_ROLES for pod in self.user.pods(role)]

    def serving(self) -> dict[str, str]:
        """Of pods that do not leave: which generation each is of."""
        staying = (pod for pod in self.pods() if not pod["metadata"].get("deletionTimestamp"))
        return {pod["metadata"]["name"]: pod["metadata"]["labels"][GENERATION] for pod in staying}

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        def holds() -> bool:
            self.router.register(self.pods(), "tcp")
            return condition()

        self.user.cluster.until(holds, seconds, what, longest_pause=0.2)

    def surge(self) -> JSON:
        found: JSON = self.user.status().get("update", {}).get("surge", {})
        return found

    def until_takes_over(self) -> str:
        """The new generation."""
        self.until(lambda: bool(self.surge()), "a generation takes over")
        name: str = self.surge()["generation"]
        return name

    def until_percent(self, percent: int) -> None:
        self.until(lambda: self.surge().get("percent") == percent, f"it has {percent} % of the jobs")


@pytest.fixture
def router() -> Iterator[FakeRouter]:
    with FakeRouter() as running:
        yield running


@pytest.fixture
def surging(cluster: Cluster, namespace: str, operators: Operators, router: FakeRouter) -> Surging:
    return Surging(User(cluster, namespace, "digits"), router, operators)


def test_it_takes_over_step_by_step_and_the_other_goes(surging: Surging) -> None:
    surging.make()
    (old,) = set(surging.serving().values())
    assert surging.router.shares == []
    surging.user.edit(image={"tag": "7"})
    new = surging.until_takes_over()
    surging.until(lambda: set(surging.serving().values()) == {new}, "the other is gone")
    # Its last pod is gone before the router hears of it.
    surging.until(lambda: surging.router.shares[-1] == {new: 100}, "all jobs begin in the one that is left")
    assert surging.router.shares == [{old: 100 - share, new: share} for share in (0, 50, 100)] + [{new: 100}]
    assert sorted(surging.serving()) == [f"digits-{role}-b-0" for role in sorted(MODEL_ROLES)]
    surging.user.until_condition("Progressing", "False", "Complete")
    surging.user.until_condition("UpgradeAvailable", "False", "UpToDate")
    assert {surging.user.condition(kind).status for kind in ("Ready", "Available", "PeersRegistered")} == {"True"}
    # And the next one into the places that are free again.
    surging.user.edit(image={"tag": "8"})
    newest = surging.until_takes_over()
    surging.until(lambda: set(surging.serving().values()) == {newest}, "the other is gone too")
    assert sorted(surging.serving()) == [f"digits-{role}-0" for role in sorted(MODEL_ROLES)]


@pytest.mark.thorough
def test_no_pod_of_it_is_made_before_the_router_knows_that_no_job_begins_in_it(surging: Surging) -> None:
    surging.make(600)
    surging.router.refuses = True
    surging.user.edit(image={"tag": "7"})
    words = "0 % of new jobs: the router has not taken the shares yet"
    surging.user.until_condition("Progressing", "True", "Surging", words)
    asked = surging.router.asked
    surging.until(lambda: surging.router.asked > asked + 1, "it was asked again")
    assert len(surging.serving()) == 3
    surging.router.refuses = False
    surging.until(lambda: len(surging.serving()) == 6, "its pods are there")


def test_one_whose_tasks_fail_goes_again_and_does_not_come_back(surging: Surging) -> None:
    surging.make(600)
    before = surging.serving()
    surging.user.edit(image={"tag": "7"})
    new = surging.until_takes_over()
    surging.until_percent(50)
    surging.router.tallies = {new: registry_pb2.Generation(done=1, failed=3)}
    surging.until(lambda: surging.serving() == before, "it has gone")
    told = surging.user.until_condition("UpgradeAvailable", "True", "RolledBack", "3 of 4 tasks failed")
    surging.user.until_condition("Stalled", "True", "RolledBack")
    assert surging.user.condition("Ready").status == "True"
    surging.until(
        lambda: surging.router.shares[-1] == {before["digits-decoder-0"]: 100}, "all jobs begin where they did"
    )
    surging.router.tallies = {}
    surging.operator.kill()
    surging.operator.start()
    surging.user.edit(roles={"decoder": {"replicas": 2}})
    surging.user.until_counts(decoder=2)
    assert set(surging.serving().values()) == set(before.values())
    assert surging.user.until_condition("UpgradeAvailable", "True", "RolledBack") == told
    # Being told to is another matter, and so is another image.
    surging.user.edit(update={"to": surging.user.status()["update"]["available"]})
    assert surging.until_takes_over() == new
    surging.user.edit(image={"tag": "8"}, update={"to": None})
    surging.until(lambda: surging.surge().get("generation") not in (new, None), "another takes over instead")


@pytest.mark.thorough
def test_an_operator_that_is_killed_on_the_way_goes_on_where_it_was(surging: Surging) -> None:
    surging.make(4)
    surging.user.edit(image={"tag": "7"})
    new = surging.until_takes_over()
    for percent in (50, 100):
        surging.until_percent(percent)
        since = surging.surge()["since"]
        surging.operator.kill()
        surging.operator.start()
        assert surging.surge()["since"] == since
    surging.until(lambda: set(surging.serving().values()) == {new}, "the other is gone")
    told = [shares[new] for shares in surging.router.shares]
    assert told == sorted(told)


@pytest.mark.thorough
def test_an_edit_that_is_taken_back_leaves_everything_as_it_was(surging: Surging) -> None:
    surging.make(600)
    before = surging.serving()
    surging.user.edit(image={"tag": "7"})
    surging.until_takes_over()
    surging.until(lambda: len(surging.serving()) == 6, "its pods are there")
    surging.user.edit(image=None)
    surging.until(lambda: surging.serving() == before and not surging.surge(), "they have gone")
    surging.user.until_condition("UpgradeAvailable", "False", "UpToDate")
