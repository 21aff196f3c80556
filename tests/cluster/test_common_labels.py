"""Labels that a cluster's policies or its queues ask for: given once, on the pipeline, and on everything it makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from cluster.user import DIGITS, ROLES, User
from testbed.controlplane.admission import Patch, changing, refusing, until_acts
from testbed.controlplane.client import JSON, Refused
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator
from testbed.controlplane.proxy import Proxy, matching

QUEUE: Final = "kueue.x-k8s.io/queue-name"
POD_GROUP: Final = "kueue.x-k8s.io/pod-group-name"
# Of every kind that a pipeline, or a controller on behalf of its children, makes something of; events are nobody's.
KINDS: Final = (
    *("serviceaccounts", "configmaps", "services", "pods", "persistentvolumeclaims"),
    *("apps/statefulsets", "apps/controllerrevisions", "policy/poddisruptionbudgets"),
    *("networking.k8s.io/networkpolicies", "discovery.k8s.io/endpointslices"),
    "diffusion-operator.dev/diffusionpipelinerolescalers",
)
EVERYTHING: Final[dict[str, Any]] = {
    "model": {"id": "a/b", "cache": {"type": "PerPod", "size": "1Gi"}},
    "router": {"storage": {"type": "PersistentVolumeClaim", "size": "1Gi"}},
    "roles": {"denoiser": {"replicas": 2, "scaling": {"mode": "External"}}, "encoder": {"replicas": 2}},
}
HAS_TEAM: Final = [
    {
        "expression": "has(object.metadata.labels) && 'team' in object.metadata.labels",
        "message": "who pays for it? label it: team",
    }
]


@pytest.fixture
def operator(operators: Callable[..., Operator]) -> Operator:
    return operators("--router-address=127.0.0.1:1")


CLAIMS: Final = (
    "data-painter-router-0",
    *(f"models-painter-{role}-{number}" for role in ROLES[:3] for number in range(3)),
)


@pytest.fixture
def user(cluster: Cluster, namespace: str, operator: Operator) -> Iterator[User]:
    """With a volume for each of its claims."""
    for claim in CLAIMS:
        spec = {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": f"/nowhere/{claim}"},
            "claimRef": {"namespace": namespace, "name": claim},
        }
        cluster.api.post("/api/v1/persistentvolumes", {"metadata": {"name": f"{namespace}-{claim}"}, "spec": spec})
    yield User(cluster, namespace, "painter")
    for claim in CLAIMS:
        cluster.api.delete(f"/api/v1/persistentvolumes/{namespace}-{claim}")


def require_team(cluster: Cluster, namespace: str, *resources: str) -> Any:
    return refusing(cluster, namespace, "require-team", HAS_TEAM, resources=resources or plurals())


def plurals() -> list[str]:
    return [kind.rpartition("/")[2] for kind in KINDS]


@pytest.fixture
def required(cluster: Cluster, namespace: str, operator: Operator) -> Iterator[None]:
    with require_team(cluster, namespace):
        probe = {"metadata": {"name": "probe"}}
        until_acts(cluster, f"/api/v1/namespaces/{namespace}/configmaps", probe, lambda a: isinstance(a, Refused))
        yield


def made(user: User) -> Iterator[JSON]:
    """All that there is of it."""
    for kind in KINDS:
        group, _, plural = kind.rpartition("/")
        version = "v1alpha1" if group == "diffusion-operator.dev" else "v1"
        root = f"/apis/{group}/{version}" if group else "/api/v1"
        found = user.api.items(f"{root}/namespaces/{user.namespace}/{plural}")
        found = [item for item in found if f"{user.name}-" in item["metadata"]["name"]]
        assert found, f"there are no {plural}"
        yield from ({**item, "kind": plural} for item in found)


def labels_of_all(user: User, label: str) -> dict[str, str | None]:
    return {
        f"{item['kind']}/{item['metadata']['name']}": item["metadata"].get("labels", {}).get(label)
        for item in made(user)
    }


def is_up(user: User) -> bool:
    """All that was asked for is made and applied, and every pod is ready, though there is no router to ask."""
    return user.condition("Reconciled").status == "True" and all(
        seen["readyReplicas"] == seen["desiredReplicas"] == seen["updatedReplicas"]
        for seen in user.status()["roles"].values()
    )


def until_up(user: User) -> None:
    user.cluster.until(lambda: is_up(user), 90, f"{user.name} is up")


def test_a_policy_that_requires_a_label_of_everything_is_satisfied(required: None, user: User) -> None:
    user.make(EVERYTHING, commonLabels={"team": "paint"})
    until_up(user)
    found = labels_of_all(user, "team")
    assert set(found.values()) == {"paint"}, found
    claims = [name for name in found if name.startswith("persistentvolumeclaims/")]
    assert len(claims) == 6, claims


def test_without_the_label_the_status_names_object_policy_and_cause(required: None, user: User) -> None:
    user.make(EVERYTHING)
    told = user.until_condition("Reconciled", "False", "ApplyFailed", "who pays for it? label it: team").message
    assert told.startswith("ControllerRevision painter-1-")
    assert "require-team" in told
    user.edit(commonLabels={"team": "paint"})
    until_up(user)


def test_a_claim_that_a_policy_refuses_is_named(cluster: Cluster, namespace: str, user: User) -> None:
    with require_team(cluster, namespace, "persistentvolumeclaims"):
        claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        probe = {"metadata": {"name": "probe"}, "spec": spec}
        until_acts(cluster, claims, probe, lambda answer: isinstance(answer, Refused))
        user.make(EVERYTHING)
        cluster.until(lambda: "label it: team" in user.condition("Schedulable").message, 60, "the claim is told of")
        assert "router: 1 pod refused, PodsRefused: claim data: " in user.condition("Schedulable").message


def test_another_label_reaches_all_but_claims_and_the_way_for_claims_to_come_is_told(
    cluster: Cluster, user: User
) -> None:
    user.make(EVERYTHING, commonLabels={"team": "paint"})
    until_up(user)
    user.edit(commonLabels={"team": "film", "more": "1"})
    told = user.until_condition(
        "Reconciled",
        "True",
        "Applied",
        "claims of StatefulSet painter-encoder keep the labels that they were made with",
    ).message
    until_up(user)

    def others() -> set[str | None]:
        return {team for name, team in labels_of_all(user, "team").items() if not is_history(name)}

    def is_history(name: str) -> bool:
        return name.startswith(("persistentvolumeclaims/", "controllerrevisions/", "configmaps/"))

    cluster.until(lambda: others() == {"film"}, 60, "all but claims have the new label")
    assert {claim["metadata"]["labels"]["team"] for claim in user.api.items(f"{user.core}/persistentvolumeclaims")} == {
        "paint"
    }
    # As the status says it.
    pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in user.pods("encoder")}
    command = next(part for part in told.split("`") if part.startswith("kubectl delete statefulset painter-encoder"))
    user.kubectl(*command.split()[1:])
    user.edit(roles={"encoder": {"replicas": 3}})

    def team_of_the_third() -> str:
        path = f"{user.core}/persistentvolumeclaims/models-painter-encoder-2"
        return str(user.api.get(path)["metadata"]["labels"]["team"]) if user.api.exists(path) else ""

    cluster.until(lambda: team_of_the_third() == "film", 60, "the third pod's claim has the label of now")
    until_up(user)
    assert pods.items() <= {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in user.pods("encoder")}.items()


def test_labels_that_are_common_no_more_go(cluster: Cluster, user: User) -> None:
    user.make(EVERYTHING, commonLabels={"team": "paint"}, commonAnnotations={"example.com/a": "b"})
    until_up(user)
    user.edit(commonLabels=None, commonAnnotations=None)
    user.cluster.until(
        lambda: "team" not in user.scaler()["metadata"]["labels"] and "annotations" not in user.scaler()["metadata"],
        30,
        "the scaler has them no more",
    )
    until_up(user)
    for role in ROLES:
        assert "team" not in user.stateful_set(role)["metadata"]["labels"]
        assert all("team" not in pod["metadata"]["labels"] for pod in user.pods(role))
    assert user.scaler()["spec"]["replicas"] == 2


class TestKueue:
    """Its webhook groups the pods of a StatefulSet that has a queue's label, and holds them until there is quota.

    Here its part that changes StatefulSets, as https://github.com/kubernetes-sigs/kueue has it in
    pkg/controller/jobs/statefulset/statefulset_webhook.go, and what it forbids: another queue while pods are ready, and
    another count of pods but from or to none.
    """

    @pytest.fixture
    def kueue(self, cluster: Cluster, namespace: str, operator: Operator) -> Iterator[None]:
        def group(stateful_set: JSON) -> Patch:
            metadata, template = stateful_set["metadata"], stateful_set["spec"]["template"]["metadata"]
            if QUEUE not in metadata.get("labels", {}):
                return []
            labels = {
                **template["labels"],
                QUEUE: metadata["labels"][QUEUE],
                "kueue.x-k8s.io/managed": "true",
                POD_GROUP: f"statefulset-{metadata['name']}",
            }
            annotations = {
                **template.get("annotations", {}),
                "kueue.x-k8s.io/pod-group-total-count": str(stateful_set["spec"]["replicas"]),
                "kueue.x-k8s.io/pod-group-fast-admission": "true",
                "kueue.x-k8s.io/pod-group-serving": "true",
            }
            return [
                {"op": "add", "path": "/spec/template/metadata/labels", "value": labels},
                {"op": "add", "path": "/spec/template/metadata/annotations", "value": annotations},
            ]

        counts = {
            "expression": "oldObject == null || object.spec.replicas == oldObject.spec.replicas || "
            "object.spec.replicas == 0 || oldObject.spec.replicas == 0",
            "message": "spec.replicas: field is immutable",
        }
        with (
            changing(cluster, namespace, "kueue", group, group="apps", resource="statefulsets"),
            refusing(cluster, namespace, "kueue", [counts], resources=["statefulsets"]),
        ):
            path = f"/apis/apps/v1/namespaces/{namespace}/statefulsets"
            pods = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
            probe = {
                "metadata": {"name": "probe", "labels": {QUEUE: "gpus"}},
                "spec": {
                    "replicas": 1,
                    "serviceName": "a",
                    "selector": {"matchLabels": {"a": "b"}},
                    "template": pods,
                },
            }
            until_acts(cluster, path, probe, lambda answer: POD_GROUP in str(answer))
            yield

    def test_a_queues_label_makes_pod_groups_and_suspend_gives_the_quota_back(
        self, kueue: None, user: User, proxy: Proxy, cluster: Cluster
    ) -> None:
        user.make(DIGITS, commonLabels={QUEUE: "gpus"}, roles={"denoiser": {"replicas": 2}})
        until_up(user)
        for role in ROLES:
            for pod in user.pods(role):
                assert pod["metadata"]["labels"][QUEUE] == "gpus"
                assert pod["metadata"]["labels"][POD_GROUP] == f"statefulset-painter-{role}"
        user.edit(suspend=True)
        cluster.until(lambda: not any(user.pods(role) for role in ROLES), 60, "there are no pods")
        user.until_condition("Ready", "False", "Suspended")
        user.edit(suspend=False)
        until_up(user)
        # Nobody fights: what Kueue adds is left, and nothing is written any more.
        written = proxy.count(matching("PATCH", "/statefulsets/"))
        user.edit(update={"revisionHistoryLimit": 3})
        cluster.until(lambda: is_up(user), 30, "the edit is seen")
        assert proxy.count(matching("PATCH", "/statefulsets/")) == written
        assert user.stateful_set("denoiser")["spec"]["template"]["metadata"]["labels"][POD_GROUP]

    def test_what_kueue_does_not_allow_is_told(self, kueue: None, user: User) -> None:
        user.make(DIGITS, commonLabels={QUEUE: "gpus"})
        until_up(user)
        user.edit(roles={"denoiser": {"replicas": 2}})
        told = user.until_condition("Reconciled", "False", "ApplyFailed", "spec.replicas: field is immutable").message
        assert told.startswith("StatefulSet painter-denoiser: ")
        user.edit(suspend=True)
        user.until_condition("Ready", "False", "Suspended")
        user.edit(suspend=False)
        until_up(user)
        assert len(user.pods("denoiser")) == 2
