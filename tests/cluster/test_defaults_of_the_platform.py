"""What a platform's owners say once: it reaches every new pipeline, and moves no pod that runs until it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from cluster.user import DIGITS, ROLES, User
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator

Operators = Callable[..., Operator]

PLATFORM: Final[JSON] = {
    "imageRegistry": "mirror.example:5000",
    "imagePullSecrets": [{"name": "mirror"}],
    "storageClassName": "fast",
    "caBundle": {"configMap": "trusted-ca"},
    "commonLabels": {"team": "paint"},
    "egress": [{"ports": [{"port": 3128}]}],
    "pods": {
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "tolerations": [{"key": "spot", "operator": "Exists"}],
    },
    "gpuWorkers": {"nodeSelector": {"type": "kwok"}},
}
CLAIM: Final = {"storage": {"type": "PersistentVolumeClaim", "size": "1Gi"}}


@pytest.fixture
def platform(tmp_path: Path) -> str:
    file = tmp_path / "platform.yaml"
    file.write_text(json.dumps(PLATFORM))
    return f"--platform-file={file}"


@pytest.fixture
def user(cluster: Cluster, namespace: str) -> User:
    return User(cluster, namespace, "painter")


def pods(user: User) -> dict[str, str]:
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for role in ROLES for pod in user.pods(role)}


def pod(user: User, role: str) -> JSON:
    found: JSON = user.stateful_set(role)["spec"]["template"]["spec"]
    return found


def environment(user: User, role: str) -> dict[str, Any]:
    return {item["name"]: item.get("value") for item in pod(user, role)["containers"][0]["env"]}


def is_of_the_platform(user: User, role: str) -> bool:
    return pod(user, role)["containers"][0]["image"].startswith("mirror.example:5000/")


def test_a_new_pipeline_has_them_and_what_it_says_itself_wins(
    user: User, operators: Operators, platform: str, cluster: Cluster
) -> None:
    operators(platform)
    mine = [{"name": "HTTPS_PROXY", "value": "mine"}]
    user.make(roles={"denoiser": {"gpus": 1}, "decoder": {"env": mine}})
    user.until_ready(60)
    assert all(is_of_the_platform(user, role) for role in ROLES)
    assert environment(user, "decoder")["HTTPS_PROXY"] == "mine"
    assert environment(user, "encoder")["HTTPS_PROXY"] == "http://proxy:3128"
    assert environment(user, "router")["SSL_CERT_FILE"] == "/etc/diffusion-operator/ca/ca.crt"
    assert [pod(user, role).get("nodeSelector") for role in ("encoder", "denoiser")] == [None, {"type": "kwok"}]
    policies = f"/apis/networking.k8s.io/v1/namespaces/{user.namespace}/networkpolicies"
    for policy in user.api.items(policies):
        assert {"ports": [{"protocol": "TCP", "port": 3128}]} in policy["spec"]["egress"]
    # As it stands in the API, the resource has none of it.
    assert not {"commonLabels", "imagePullSecrets"} & user.live()["spec"].keys()


def test_they_move_no_pod_that_runs_and_what_would_change_is_said(
    user: User, operators: Operators, platform: str, cluster: Cluster
) -> None:
    before = operators()
    user.make()
    user.until_ready(60)
    running = pods(user)
    before.stop()
    operators(platform)
    change = "would change metadata.labels.team (encoder, denoiser, decoder, router), "
    user.until_condition("UpgradeAvailable", "True", "Held", change)
    user.edit(roles={"denoiser": {"replicas": 2}})
    user.until_counts(denoiser=2)
    user.until_ready(60)
    assert running.items() <= pods(user).items()
    assert not is_of_the_platform(user, "decoder")
    # What is no part of a pod is theirs at once.
    assert user.stateful_set("decoder")["metadata"]["labels"]["team"] == "paint"
    user.edit(update={"to": user.status()["update"]["available"]})
    cluster.until(lambda: all(is_of_the_platform(user, role) for role in ROLES), 60, "it has moved")
    user.until_condition("UpgradeAvailable", "False", "UpToDate")
    user.until_ready(60)
    assert not running.items() & pods(user).items()


def test_another_storage_class_is_for_claims_to_come(
    user: User, operators: Operators, platform: str, cluster: Cluster
) -> None:
    before = operators("--router-address=127.0.0.1:1")
    user.make(DIGITS, router=CLAIM)
    user.until_condition("Reconciled", "True", "Applied")
    before.stop()
    operators(platform, "--router-address=127.0.0.1:1")
    told = "claims of StatefulSet painter-router keep the labels and storage class that they were made with"
    user.until_condition("Reconciled", "True", "Applied", told)
    (claim,) = user.stateful_set("router")["spec"]["volumeClaimTemplates"]
    assert "storageClassName" not in claim["spec"]
    fresh = User(cluster, user.namespace, "fresh")
    fresh.make(DIGITS, router=CLAIM)
    fresh.until_condition("Reconciled", "True", "Applied")
    (claim,) = fresh.stateful_set("router")["spec"]["volumeClaimTemplates"]
    assert (claim["spec"]["storageClassName"], claim["metadata"]["labels"]) == ("fast", {"team": "paint"})
