"""How the operator's process is run."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_operator.api import load_pipeline
from diffusion_operator.render import render as pipeline_children
from diffusion_operator.settings import Settings
from unit.chart.charts import EVERYTHING, METADATA, PROMETHEUS, Object, merged, render


def settings(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The rendered arguments as the operator itself reads them."""
    monkeypatch.setenv("DIFFUSION_OPERATOR_POD_NAME", "pod-0")
    return Settings.read(render(values).container["args"])


def test_without_values_it_runs_as_it_would_without_the_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings({}, monkeypatch) == Settings.read([]).model_copy(update={"log_format": "json"})


def test_each_value_reaches_the_setting_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "replicas": 2,
        "leaderElection": {"enabled": True, "leaseSeconds": 30},
        "watchNamespaces": ["paint", "film"],
        "pipelines": {"workerImage": "mine/worker:1", "routerImage": "mine/router:1"},
        "concurrency": 4,
        "resyncSeconds": 60,
        "httpPort": 9000,
        "log": {"level": "debug", "format": "console"},
        "extraArgs": ["--router-address={pipeline}-router-api.{namespace}.svc.cluster.local:{port}"],
    }
    found = settings(values, monkeypatch)
    assert found.leader_elect
    assert (found.lease_name, found.lease_seconds) == ("diffusion-diffusion-operator", 30)
    assert found.watch_namespaces == ["film", "paint"]
    assert (found.worker_image, found.router_image) == ("mine/worker:1", "mine/router:1")
    assert (found.concurrency, found.resync_seconds, found.http_port) == (4, 60, 9000)
    assert (found.log_level, found.log_format) == ("debug", "console")
    assert found.router_address == "{pipeline}-router-api.{namespace}.svc.cluster.local:{port}"
    assert found.pod_name == "pod-0"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({}, f"diffusion-operator/operator:{METADATA['appVersion']}"),
        ({"tag": "1.2.3"}, "diffusion-operator/operator:1.2.3"),
        ({"digest": f"sha256:{'0a' * 32}"}, f"diffusion-operator/operator@sha256:{'0a' * 32}"),
        ({"tag": "1.2.3", "digest": f"sha256:{'0a' * 32}"}, f"diffusion-operator/operator@sha256:{'0a' * 32}"),
        ({"repository": "registry.example:5000/mine"}, f"registry.example:5000/mine:{METADATA['appVersion']}"),
    ],
)
def test_a_digest_wins_over_a_tag_and_a_tag_over_the_version(image: dict[str, str], expected: str) -> None:
    rendered = render({"image": image})
    assert rendered.container["image"] == expected
    assert rendered.one("Pod", "test")["spec"]["containers"][0]["image"] == expected


def test_two_are_never_at_work_without_a_lease() -> None:
    assert render().one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}


def test_with_a_lease_the_new_pod_stands_by_before_the_old_one_goes() -> None:
    strategy = render({"leaderElection": {"enabled": True}}).one("Deployment")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


@pytest.mark.parametrize(("replicas", "budgets"), [(1, 0), (2, 1), (3, 1)])
def test_a_disruption_budget_is_made_only_where_it_does_not_block_every_drain(replicas: int, budgets: int) -> None:
    rendered = render({"replicas": replicas, "leaderElection": {"enabled": True}})
    assert len(rendered.of("PodDisruptionBudget")) == budgets


def test_probes_and_metrics_are_at_the_one_named_port() -> None:
    rendered = render({"httpPort": 9000})
    container = rendered.container
    assert container["ports"] == [{"name": "http", "containerPort": 9000, "protocol": "TCP"}]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    service = rendered.one("Service")
    assert service["spec"]["ports"] == [{"name": "http", "port": 9000, "targetPort": "http", "protocol": "TCP"}]
    assert service["spec"]["selector"].items() <= rendered.pod["metadata"]["labels"].items()


@pytest.mark.parametrize("kind", ["operator", "test"])
def test_pods_pass_pod_security_restricted_and_can_write_only_to_tmp(kind: str) -> None:
    rendered = render()
    pod: Object = rendered.pod["spec"] if kind == "operator" else rendered.one("Pod", "test")["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert container["resources"].keys() == {"requests", "limits"}
        assert [mount["mountPath"] for mount in container.get("volumeMounts", [])] == ["/tmp"] * (kind == "operator")
    assert all(volume.keys() == {"name", "emptyDir"} for volume in pod.get("volumes", []))
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}


def test_only_the_pods_that_ask_for_a_token_get_one() -> None:
    rendered = render()
    assert all(account["automountServiceAccountToken"] is False for account in rendered.of("ServiceAccount"))
    assert rendered.pod["spec"]["automountServiceAccountToken"] is True


def test_pipelines_know_the_operators_pods_by_a_label_that_no_value_changes() -> None:
    values = merged(EVERYTHING, {"fullnameOverride": "other", "podLabels": {"a": "b"}, "commonLabels": {"c": "d"}})
    labels = render(values, apis=PROMETHEUS, release="x").pod["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "diffusion-operator"
    assert labels.items() >= {"a": "b", "c": "d"}.items()


def test_an_isolated_pipeline_lets_the_operator_ask_its_router() -> None:
    document = {
        "apiVersion": "diffusion-operator.dev/v1alpha1",
        "kind": "DiffusionPipeline",
        "metadata": {"name": "digits", "namespace": "paint"},
        "spec": {"model": {"source": "Bundled"}},
    }
    pipeline = load_pipeline(document)
    (policy,) = (
        child
        for child in pipeline_children(pipeline, operator_namespace="paint-operators")
        if child["kind"] == "NetworkPolicy" and child["metadata"]["name"].endswith("-router")
    )
    labels = render().pod["metadata"]["labels"]
    (peer,) = (
        peer
        for rule in policy["spec"]["ingress"]
        if any(port["port"] == pipeline.router.grpc_port for port in rule["ports"])
        for peer in rule["from"]
        if peer["podSelector"]["matchLabels"].items() <= labels.items()
    )
    assert peer["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "paint-operators"}}


def test_a_spread_without_a_selector_is_over_the_operators_pods() -> None:
    constraint = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    own = constraint | {"labelSelector": {"matchLabels": {"a": "b"}}}
    rendered = render({"topologySpreadConstraints": [constraint, own]})
    first, second = rendered.pod["spec"]["topologySpreadConstraints"]
    assert first == constraint | {"labelSelector": rendered.one("Deployment")["spec"]["selector"]}
    assert second == own


def test_a_closed_operator_is_reached_by_the_given_peers_and_by_helm_test_alone() -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    rendered = render({"networkPolicy": {"enabled": True, "from": [peer]}})
    spec = rendered.one("NetworkPolicy")["spec"]
    (rule,) = spec["ingress"]
    test, given = rule["from"]
    assert given == peer
    assert test["podSelector"]["matchLabels"].items() <= rendered.one("Pod", "test")["metadata"]["labels"].items()
    assert rule["ports"] == [{"port": "http", "protocol": "TCP"}]
    assert spec["podSelector"]["matchLabels"].items() <= rendered.pod["metadata"]["labels"].items()
    assert spec["policyTypes"] == ["Ingress"]
