"""Claims of pods that are to be larger: the claims grow where their class allows it, and no pod is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from cluster.user import DIGITS, LABEL, ROLES, User
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator
from testbed.controlplane.proxy import Freeze, Proxy, Request

CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
VOLUMES = "/api/v1/persistentvolumes"
CACHES = {f"models-painter-{role}" for role in ("encoder", "denoiser", "decoder")}


class Painter(User):
    """With claims for the router and for each worker, of a class of the test's own."""

    def __init__(self, cluster: Cluster, namespace: str, storage_class: str) -> None:
        super().__init__(cluster, namespace, "painter")
        self.storage_class = storage_class

    def make_with_claims(self, **roles: Any) -> None:
        self.make(
            DIGITS,
            model={
                "source": "Hub",
                "id": "a/b",
                "cache": {"type": "PerPod", "size": "5Gi", "storageClassName": self.storage_class},
            },
            router={
                "storage": {"type": "PersistentVolumeClaim", "size": "1Gi", "storageClassName": self.storage_class}
            },
            roles=roles,
        )

    def claims(self) -> dict[str, JSON]:
        found = self.api.items(f"{self.core}/persistentvolumeclaims", labelSelector=f"{LABEL}=painter")
        return {claim["metadata"]["name"]: claim for claim in found}

    def sizes(self) -> dict[str, str]:
        return {name: claim["spec"]["resources"]["requests"]["storage"] for name, claim in self.claims().items()}

    def templates(self) -> dict[str, str]:
        """Sizes for claims to come, by StatefulSet."""
        found = {}
        for item in self.api.items(self.stateful_sets):
            (claim,) = item["spec"]["volumeClaimTemplates"]
            name = f"{claim['metadata']['name']}-{item['metadata']['name']}"
            found[name] = claim["spec"]["resources"]["requests"]["storage"]
        return found

    def provide(self) -> None:
        """Makes volumes of claims that have none, as a storage driver does."""
        for name, claim in self.claims().items():
            if claim["status"].get("phase") == "Bound" or self.api.exists(f"{VOLUMES}/{claim['metadata']['uid']}"):
                continue
            spec = {
                "capacity": claim["spec"]["resources"]["requests"],
                "accessModes": claim["spec"]["accessModes"],
                "storageClassName": self.storage_class,
                "claimRef": {"namespace": self.namespace, "name": name, "uid": claim["metadata"]["uid"]},
                "csi": {"driver": "storage.test", "volumeHandle": claim["metadata"]["uid"]},
            }
            self.api.post(VOLUMES, {"metadata": {"name": claim["metadata"]["uid"]}, "spec": spec})

    def until_all_is_up(self) -> None:
        def up() -> bool:
            self.provide()
            return self.condition("Ready").status == "True"

        self.cluster.until(up, 60, "all pods have their volumes, and are ready")

    def uids(self) -> dict[str, str]:
        """Of pods and claims."""
        items = [pod for role in ROLES for pod in self.pods(role)] + list(self.claims().values())
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in items}

    def until_sizes(self, sizes: Mapping[str, str], count: int) -> None:
        """Waits until claims, and templates for those to come, are of these sizes, by the beginnings of their names."""

        def grown() -> bool:
            found = self.sizes()
            wanted = {name: size for name in found for start, size in sizes.items() if name.startswith(f"{start}-")}
            return len(found) == count and found == wanted and self.templates() == sizes

        self.cluster.until(grown, 60, f"{count} claims are of {sizes}, and so are their templates")


def grow(painter: Painter, cache: str = "8Gi", router: str = "3Gi") -> dict[str, str]:
    painter.edit(model={"cache": {"size": cache}}, router={"storage": {"size": router}})
    return {**dict.fromkeys(CACHES, cache), "data-painter-router": router}


@pytest.fixture
def classes(cluster: Cluster, namespace: str) -> Iterator[Callable[[bool], str]]:
    """Makes the test's storage class, whose claims can grow or not."""
    path = f"{CLASSES}/{namespace}"

    def make(expands: bool) -> str:
        kind = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": namespace}}
        cluster.api.post(CLASSES, {**kind, "provisioner": "storage.test", "allowVolumeExpansion": expands})
        return namespace

    yield make
    cluster.api.delete(path)


@pytest.fixture
def painter(cluster: Cluster, namespace: str, classes: Callable[[bool], str], operator: Operator) -> Painter:
    return Painter(cluster, namespace, classes(True))


def test_claims_grow_without_their_pods_being_touched_and_later_ones_are_as_large(painter: Painter) -> None:
    painter.make_with_claims(denoiser={"replicas": 2})
    painter.until_all_is_up()
    before = painter.uids()
    assert len(before) == 10
    revisions = {role: painter.stateful_set(role)["status"]["currentRevision"] for role in ROLES}

    painter.until_sizes(grow(painter), 5)
    painter.until_ready()
    painter.until_condition("Reconciled", "True", "Applied")
    assert painter.uids() == before
    assert {role: painter.stateful_set(role)["status"]["currentRevision"] for role in ROLES} == revisions
    # Taken up again by the StatefulSets that were made anew.
    for role in ROLES:
        uid = painter.stateful_set(role)["metadata"]["uid"]
        owners = [pod["metadata"]["ownerReferences"][0]["uid"] for pod in painter.pods(role)]
        assert set(owners) == {uid}, role

    painter.edit(roles={"denoiser": {"replicas": 3}})
    painter.until_all_is_up()
    assert painter.sizes()["models-painter-denoiser-2"] == "8Gi"


def test_claims_that_are_kept_for_pods_to_come_grow_and_others_of_the_same_labels_do_not(painter: Painter) -> None:
    painter.make_with_claims(denoiser={"replicas": 2})
    painter.until_all_is_up()
    painter.edit(roles={"denoiser": {"replicas": 1}})
    painter.until_condition("Reconciled", "True", "Applied")
    (claim,) = (one for name, one in painter.claims().items() if name == "models-painter-denoiser-0")
    others = {**claim["metadata"]["labels"], "diffusion-operator.dev/track": "b"}
    spec = {key: value for key, value in claim["spec"].items() if key != "volumeName"}
    metadata = {"name": "models-painter-denoiser-b-0", "labels": others}
    painter.api.post(f"{painter.core}/persistentvolumeclaims", {"metadata": metadata, "spec": spec})
    painter.provide()

    painter.edit(model={"cache": {"size": "8Gi"}})
    painter.cluster.until(lambda: set(painter.templates().values()) == {"1Gi", "8Gi"}, 60, "the templates are new")
    assert painter.sizes()["models-painter-denoiser-1"] == "8Gi"
    assert painter.sizes()["models-painter-denoiser-b-0"] == "5Gi"


def test_a_claim_that_has_no_volume_yet_grows_once_it_has(painter: Painter) -> None:
    painter.make_with_claims()
    painter.cluster.until(lambda: len(painter.claims()) == 4, 30, "claims are made")
    sizes = grow(painter)
    found = painter.until_condition("Reconciled", "True", "Applied", "is not bound, and can grow to 3Gi once it is")
    assert "data-painter-router-0" in found.message
    painter.until_all_is_up()
    painter.until_sizes(sizes, 4)
    painter.until_ready()


def test_what_the_class_does_not_allow_is_told_and_changes_nothing(
    cluster: Cluster, namespace: str, classes: Callable[[bool], str], operator: Operator
) -> None:
    painter = Painter(cluster, namespace, classes(False))
    painter.make_with_claims()
    painter.until_all_is_up()
    before, sizes = painter.uids(), painter.sizes()
    sets = {role: painter.stateful_set(role)["metadata"]["uid"] for role in ROLES}
    wanted = grow(painter)
    words = (
        f"PersistentVolumeClaim data-painter-router-0: claims stay at 1Gi, as storage class '{namespace}' does not let "
        "claims grow (allowVolumeExpansion); set spec.router.storage.size to 1Gi"
    )
    painter.until_condition("Reconciled", "False", "ImmutableFieldChanged", words)
    # All else is still done.
    painter.edit(roles={"encoder": {"replicas": 2}})
    painter.until_counts(encoder=2)
    assert before.items() <= painter.uids().items()
    assert sizes.items() <= painter.sizes().items()
    assert {role: painter.stateful_set(role)["metadata"]["uid"] for role in ROLES} == sets

    cluster.api.patch(f"{CLASSES}/{namespace}", {"allowVolumeExpansion": True})
    painter.cluster.until(lambda: painter.provide() is None and len(painter.claims()) == 5, 30, "the new claim")
    painter.until_sizes(wanted, 5)
    painter.until_ready()
    assert before.items() <= painter.uids().items()


def test_a_smaller_size_is_told_and_changes_nothing(painter: Painter) -> None:
    painter.make_with_claims()
    painter.until_all_is_up()
    before, sizes, templates = painter.uids(), painter.sizes(), painter.templates()
    painter.edit(model={"cache": {"size": "4Gi"}})
    words = (
        "StatefulSet painter-encoder: claims stay at 5Gi, as none can become smaller, and 4Gi is less; "
        "set spec.model.cache.size to 5Gi"
    )
    painter.until_condition("Reconciled", "False", "ImmutableFieldChanged", words)
    # The same size, in other words.
    painter.edit(model={"cache": {"size": "5120Mi"}})
    painter.until_condition("Reconciled", "True", "Applied")
    assert (painter.uids(), painter.sizes(), painter.templates()) == (before, sizes, templates)


def test_an_operator_without_the_right_to_it_says_so(
    cluster: Cluster, namespace: str, painter: Painter, proxy: Proxy
) -> None:
    painter.make_with_claims()
    painter.until_all_is_up()
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles"
    (role,) = (role for role in cluster.api.items(path) if any("statefulsets" in r["resources"] for r in role["rules"]))
    rules = [rule for rule in role["rules"] if "persistentvolumeclaims" not in rule["resources"]]
    assert len(rules) == len(role["rules"]) - 1
    cluster.api.patch(f"{path}/{role['metadata']['name']}", {"rules": rules})
    sizes = grow(painter)
    told = painter.until_condition("Reconciled", "False", "Forbidden", "persistentvolumeclaims is forbidden").message
    assert "give the operator's role this verb" in told
    cluster.api.patch(f"{path}/{role['metadata']['name']}", {"rules": role["rules"]})
    painter.until_sizes(sizes, 4)
    painter.until_ready()


def is_of_growth(request: Request) -> bool:
    """It asks a claim to grow, or takes a StatefulSet away, or makes one."""
    kinds = {"PATCH": ("/persistentvolumeclaims/", "/statefulsets/"), "DELETE": ("/statefulsets/",)}
    return any(kind in request.path for kind in kinds.get(request.method, ()))


@pytest.mark.thorough
def test_an_operator_that_is_killed_at_any_write_is_followed_by_one_that_goes_on(
    painter: Painter, operator: Operator, proxy: Proxy
) -> None:
    painter.make_with_claims()
    painter.until_all_is_up()
    before = painter.uids()
    kills = 0
    for size in range(6, 40):
        # Each StatefulSet has a claim that grows, goes, and is made: twelve writes.
        rule = proxy.rule(Freeze(forward_first=size % 2 == 0), is_of_growth, skip=kills)
        sizes = grow(painter, f"{size}Gi", f"{size}Gi")

        def done(sizes: Mapping[str, str] = sizes) -> bool:
            return painter.templates() == sizes

        painter.cluster.until(lambda hit=rule, done=done: hit.was_hit or done(), 60, "a write is met, or all is done")
        killed = rule.was_hit
        if killed:
            operator.kill()
        proxy.reset()
        if killed:
            operator.start()
        painter.until_sizes(sizes, 4)
        painter.until_ready(60)
        assert painter.uids() == before
        if not killed:
            break
        kills += 1
    assert kills >= 12
