"""An isolated pipeline's ports: who may connect, told by evaluating the policies as a cluster does."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_operator.api import Pipeline
from diffusion_operator.render import names, render
from unit.render.children import Child, of_kind, pipeline, stateful_sets

STRANGER = {"app": "browser"}
OPERATOR = {"app.kubernetes.io/name": "diffusion-operator"}


def isolated() -> Pipeline:
    return pipeline(networkPolicy={"mode": "Isolate"})


def pod_labels(role: str) -> dict[str, str]:
    labels: dict[str, str] = stateful_sets(render(isolated()))[role]["spec"]["template"]["metadata"]["labels"]
    return labels


def selects(selector: Child, labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in selector.get("matchExpressions", [])
    )


def may_connect(client: dict[str, str], role: str, port: int, *, same_namespace: bool = True) -> bool:
    policies = [
        policy["spec"]
        for policy in of_kind(render(isolated()), "NetworkPolicy").values()
        if selects(policy["spec"]["podSelector"], pod_labels(role))
    ]
    assert policies, f"no policy holds the {role}"
    return any(
        any(entry["port"] <= port <= entry.get("endPort", entry["port"]) for entry in rule["ports"])
        and ("from" not in rule or any(_is_from(client, peer, same_namespace) for peer in rule["from"]))
        for policy in policies
        for rule in policy["ingress"]
    )


def _is_from(client: dict[str, str], peer: Child, same_namespace: bool) -> bool:
    anywhere: Any = peer.get("namespaceSelector")
    return (same_namespace or anywhere == {}) and selects(peer["podSelector"], client)


@pytest.mark.parametrize("port", [15000, 16000, 17000])
def test_only_workers_of_the_pipeline_reach_the_transfer_ports(port: int) -> None:
    for role in ("encoder", "denoiser", "decoder"):
        assert may_connect(pod_labels("denoiser"), role, port)
        assert not may_connect(pod_labels("denoiser"), role, port, same_namespace=False)
        assert not may_connect(pod_labels("denoiser") | {names.PIPELINE_LABEL: "other"}, role, port)
        assert not may_connect(pod_labels("router"), role, port)
        assert not may_connect(STRANGER, role, port)


def test_health_and_metrics_and_http_are_open() -> None:
    for client in (STRANGER, pod_labels("router")):
        assert may_connect(client, "denoiser", names.WORKER_HEALTH_PORT, same_namespace=False)
        assert may_connect(client, "router", 8000, same_namespace=False)


def test_only_the_pipelines_and_the_operators_pods_reach_the_routers_grpc() -> None:
    assert may_connect(pod_labels("encoder"), "router", 50051)
    assert may_connect(OPERATOR, "router", 50051, same_namespace=False)
    assert not may_connect(STRANGER, "router", 50051)
    assert not may_connect(pod_labels("encoder"), "router", 50051, same_namespace=False)


def test_nothing_else_is_open() -> None:
    for role in ("router", "decoder"):
        assert not may_connect(pod_labels("encoder"), role, 22)


def test_other_pipelines_have_no_policies() -> None:
    assert of_kind(render(pipeline()), "NetworkPolicy") == {}
