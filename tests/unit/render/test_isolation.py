"""An isolated pipeline's ports: who may connect, and where its pods may connect to, told by evaluating the policies as
a cluster does."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from diffusion_operator.render import names, render
from diffusion_operator.render.ports import WORKER_GRPC_HEALTH_PORT, WORKER_HEALTH_PORT
from unit.render.children import Child, of_kind, pipeline, stateful_sets

HOME = "paint"
OPERATORS = "diffusion-system"
HTTP, GRPC, DNS, HTTPS, POSTGRES = 8000, 50051, 53, 443, 5432
METRICS = (WORKER_HEALTH_PORT, WORKER_GRPC_HEALTH_PORT)
ROLES = ("encoder", "denoiser", "decoder")


@dataclass(frozen=True)
class Pod:
    labels: Mapping[str, str]
    namespace: str = HOME
    address: str = "10.1.0.7"


STRANGER = Pod({"app": "browser"})
OPERATOR = Pod({"app.kubernetes.io/name": "diffusion-operator"}, OPERATORS)
PROMETHEUS = Pod({"app.kubernetes.io/name": "prometheus"}, "monitoring")
OUTSIDE = Pod({}, "", "203.0.113.9")


class Isolated:
    """The digits example, with the policies of its kind."""

    def __init__(self, *, operators: str = OPERATORS, **sections: Any) -> None:
        made = pipeline(networkPolicy=sections.pop("policy", {}), **sections)
        self.children = render(made, operator_namespace=operators)

    def pod(self, role: str) -> Pod:
        return Pod(stateful_sets(self.children)[role]["spec"]["template"]["metadata"]["labels"])

    def lets_in(self, client: Pod, role: str, port: int) -> bool:
        return self._allows("ingress", "from", role, client, port)

    def lets_out(self, role: str, server: Pod, port: int, protocol: str = "TCP") -> bool:
        return self._allows("egress", "to", role, server, port, protocol)

    def _allows(self, kind: str, side: str, role: str, other: Pod, port: int, protocol: str = "TCP") -> bool:
        policies = [
            policy["spec"]
            for policy in of_kind(self.children, "NetworkPolicy").values()
            if selects(policy["spec"]["podSelector"], self.pod(role).labels)
        ]
        assert policies, f"no policy holds the {role}"
        assert all(kind.capitalize() in policy["policyTypes"] for policy in policies)
        return any(
            ("ports" not in rule or any(_is_port(entry, port, protocol) for entry in rule["ports"]))
            and (side not in rule or any(_is_peer(other, peer) for peer in rule[side]))
            for policy in policies
            for rule in policy[kind]
        )


def selects(selector: Child, labels: Mapping[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in selector.get("matchExpressions", [])
    )


def _is_port(entry: Child, port: int, protocol: str) -> bool:
    return entry["protocol"] == protocol and entry["port"] <= port <= entry.get("endPort", entry["port"])


def _is_peer(pod: Pod, peer: Child) -> bool:
    if "ipBlock" in peer:
        return ipaddress.ip_address(pod.address) in ipaddress.ip_network(peer["ipBlock"]["cidr"])
    if not pod.namespace:
        return False
    if "namespaceSelector" not in peer:
        near = pod.namespace == HOME
    else:
        near = selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": pod.namespace})
    return near and selects(peer.get("podSelector", {}), pod.labels)


def elsewhere(pod: Pod) -> Pod:
    """One with the same labels in another namespace: there they are anybody's."""
    return Pod(pod.labels, "elsewhere")


def of_another_pipeline(pod: Pod) -> Pod:
    return Pod({**pod.labels, names.PIPELINE_LABEL: "other"})


def test_a_pipeline_is_isolated_unless_it_says_otherwise() -> None:
    assert len(of_kind(render(pipeline()), "NetworkPolicy")) == 2
    assert of_kind(render(pipeline(networkPolicy={"mode": "None"})), "NetworkPolicy") == {}


@pytest.mark.parametrize("port", [15000, 16000, 17000])
def test_only_workers_of_the_pipeline_reach_the_transfer_ports(port: int) -> None:
    found = Isolated()
    worker = found.pod("denoiser")
    for role in ROLES:
        assert found.lets_in(worker, role, port)
        for other in (elsewhere(worker), of_another_pipeline(worker), found.pod("router"), STRANGER, OUTSIDE):
            assert not found.lets_in(other, role, port)


def test_pipelines_over_shared_memory_open_no_transfer_ports() -> None:
    found = Isolated(transport={"backend": "shm", "protocol": "auto"})
    assert not found.lets_in(found.pod("denoiser"), "encoder", 15000)
    assert not found.lets_out("denoiser", found.pod("encoder"), 15000)


def test_everyone_reaches_http_unless_clients_are_named() -> None:
    for client in (STRANGER, OUTSIDE, OPERATOR):
        assert Isolated().lets_in(client, "router", HTTP)
    ingress = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
    named = Isolated(policy={"httpFrom": [ingress]})
    assert named.lets_in(Pod({"app": "proxy"}, "ingress"), "router", HTTP)
    assert not named.lets_in(STRANGER, "router", HTTP)
    # The router's metrics are on this port.
    assert named.lets_in(PROMETHEUS, "router", HTTP)
    nobody = Isolated(policy={"httpFrom": [], "metricsFrom": []})
    assert not any(nobody.lets_in(client, "router", HTTP) for client in (STRANGER, PROMETHEUS, OUTSIDE))


def test_only_the_pipelines_pods_and_the_operator_reach_the_routers_grpc() -> None:
    found = Isolated()
    for role in (*ROLES, "router"):
        assert found.lets_in(found.pod(role), "router", GRPC)
        assert not found.lets_in(elsewhere(found.pod(role)), "router", GRPC)
        assert not found.lets_in(of_another_pipeline(found.pod(role)), "router", GRPC)
    assert found.lets_in(OPERATOR, "router", GRPC)
    for impostor in (elsewhere(OPERATOR), Pod(OPERATOR.labels), Pod({"app": "cron"}, OPERATORS), STRANGER, OUTSIDE):
        assert not found.lets_in(impostor, "router", GRPC)


def test_an_operator_that_is_no_pod_lets_no_pod_in_under_its_name() -> None:
    found = Isolated(operators="")
    for impostor in (OPERATOR, Pod(OPERATOR.labels), elsewhere(OPERATOR)):
        assert not found.lets_in(impostor, "router", GRPC)


def test_clients_of_the_grpc_api_can_be_named() -> None:
    found = Isolated(policy={"grpcFrom": [{"podSelector": {"matchLabels": STRANGER.labels}}]})
    assert found.lets_in(STRANGER, "router", GRPC)
    assert not found.lets_in(elsewhere(STRANGER), "router", GRPC)


@pytest.mark.parametrize("port", METRICS)
def test_metrics_and_health_are_prometheus_to_read_or_theirs_who_are_named(port: int) -> None:
    for role in ROLES:
        found = Isolated()
        assert found.lets_in(PROMETHEUS, role, port)
        for other in (STRANGER, OUTSIDE, OPERATOR, found.pod("router"), found.pod("denoiser")):
            assert not found.lets_in(other, role, port)
        agents = Isolated(policy={"metricsFrom": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]})
        assert agents.lets_in(OUTSIDE, role, port)
        assert not agents.lets_in(PROMETHEUS, role, port)
        assert not Isolated(policy={"metricsFrom": []}).lets_in(PROMETHEUS, role, port)


def test_nothing_else_is_open() -> None:
    found = Isolated()
    for role in ("router", *ROLES):
        for client in (found.pod("encoder"), OPERATOR, PROMETHEUS, STRANGER):
            assert not found.lets_in(client, role, 22)


def test_pods_find_names_by_dns_wherever_it_is() -> None:
    found = Isolated()
    for role in ("router", *ROLES):
        for protocol in ("UDP", "TCP"):
            assert found.lets_out(role, OUTSIDE, DNS, protocol)


def test_workers_reach_their_router_and_each_other_and_nothing_else() -> None:
    found = Isolated()
    worker, router = found.pod("encoder"), found.pod("router")
    for role in ROLES:
        assert found.lets_out(role, router, GRPC)
        assert found.lets_out(role, worker, 16000)
        assert not found.lets_out(role, router, HTTP)
        for other in (elsewhere(router), of_another_pipeline(router), OUTSIDE):
            assert not found.lets_out(role, other, GRPC)
        for other in (elsewhere(worker), of_another_pipeline(worker), OUTSIDE):
            assert not found.lets_out(role, other, 16000)
        # Not the metadata of clouds, with credentials of the node; not the API server.
        assert not found.lets_out(role, Pod({}, "", "169.254.169.254"), 80)
        assert not found.lets_out(role, OUTSIDE, HTTPS)


@pytest.mark.parametrize(
    ("model", "downloads"),
    [
        ({"source": "Hub", "id": "a/b"}, True),
        ({"source": "Hub", "id": "a/b", "cache": {"downloadPolicy": "Never"}}, False),
        ({"source": "Path", "id": "/models/a"}, False),
        ({"source": "Bundled"}, False),
    ],
)
def test_only_a_model_that_is_downloaded_opens_the_way_to_a_hub(model: Child, downloads: bool) -> None:
    found = Isolated(model=model)
    assert found.lets_out("denoiser", OUTSIDE, HTTPS) is downloads
    assert not found.lets_out("denoiser", OUTSIDE, 80)
    assert not found.lets_out("router", OUTSIDE, HTTPS)


STORES = {
    "a database": ({"env": [{"name": "DIFFUSION_ROUTER_STORE_URL", "value": "postgresql+asyncpg://db/jobs"}]}, True),
    "a secret": (
        {
            "env": [
                {
                    "name": "DIFFUSION_ROUTER_STORE_URL",
                    "valueFrom": {"secretKeyRef": {"name": "store", "key": "url"}},
                }
            ]
        },
        True,
    ),
    "a bucket, by a flag": ({"args": ["--artifacts-url=s3://bucket"]}, True),
    "a bucket, by two words": ({"args": ["--artifacts-url", "gs://bucket"]}, True),
    "variables of a Secret": (
        {"podTemplate": {"spec": {"containers": [{"name": "main", "envFrom": [{"secretRef": {"name": "router"}}]}]}}},
        True,
    ),
    "another folder": ({"args": ["--artifacts-url=/var/lib/diffusion-router/files"]}, False),
    "another file": ({"env": [{"name": "DIFFUSION_ROUTER_STORE_URL", "value": "sqlite:////data/jobs.db"}]}, False),
    "nothing": ({}, False),
}


@pytest.mark.parametrize("case", STORES)
def test_a_router_reaches_out_only_if_its_stores_are_elsewhere(case: str) -> None:
    settings, out = STORES[case]
    found = Isolated(roles={"router": settings})
    for port in (POSTGRES, HTTPS, 9000):
        assert found.lets_out("router", OUTSIDE, port) is out
    assert not found.lets_out("denoiser", OUTSIDE, POSTGRES)


def test_what_else_pods_need_can_be_named() -> None:
    proxy = {"to": [{"ipBlock": {"cidr": "203.0.113.0/24"}}], "ports": [{"port": 3128}]}
    found = Isolated(policy={"egress": [proxy]})
    for role in ("router", *ROLES):
        assert found.lets_out(role, OUTSIDE, 3128)
        assert not found.lets_out(role, OUTSIDE, 3129)
        assert not found.lets_out(role, STRANGER, 3128)
