"""The Service that clients use, as its type goes to and fro on a real API server, which fills in much of its own."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.user import User
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator

BALANCED = {
    "type": "LoadBalancer",
    "loadBalancerSourceRanges": ["203.0.113.0/24", "2001:db8::/32"],
    "loadBalancerClass": "example.com/internal",
    "externalTrafficPolicy": "Local",
}
NOTHING: dict[str, Any] = dict.fromkeys((*BALANCED, "ports"))
# What the API server assigns anew to every write, or once to a Service.
ASSIGNED = {"resourceVersion", "managedFields", "annotations"}


class Painter(User):
    def service(self) -> JSON:
        return self.api.get(f"{self.core}/services/painter-router-api")

    def set_service(self, **fields: Any) -> JSON:
        """Has no fields but these; and what became of it, once the operator has done what it can."""
        self.edit(router={"service": {**NOTHING, **fields}})
        self.until_condition("Reconciled", "True", "Applied")
        return self.service()


def published(service: JSON) -> dict[str, bool]:
    """Its ports by name, and whether each is open on nodes."""
    return {port["name"]: "nodePort" in port for port in service["spec"]["ports"]}


def kept(service: JSON) -> JSON:
    metadata = {key: value for key, value in service["metadata"].items() if key not in ASSIGNED}
    return {"metadata": metadata, "spec": service["spec"], "status": service["status"]}


@pytest.fixture
def painter(cluster: Cluster, namespace: str, everywhere: Operator) -> Painter:
    user = Painter(cluster, namespace, "painter")
    user.make()
    user.until_condition("Reconciled", "True", "Applied")
    return user


def test_a_load_balancer_publishes_http_alone_and_leaves_nothing_behind_when_it_goes(painter: Painter) -> None:
    before = painter.service()
    assert published(before) == {"http": False, "grpc": False}

    balanced = painter.set_service(**BALANCED)
    assert published(balanced) == {"http": True}
    assert BALANCED.items() <= balanced["spec"].items()
    assert balanced["spec"]["healthCheckNodePort"]

    named = painter.set_service(**BALANCED, ports=["http", "grpc"])
    assert published(named) == {"http": True, "grpc": True}
    assert painter.set_service(**BALANCED)["spec"] == balanced["spec"]

    # Kubernetes' own defaults are there again.
    open_again = painter.set_service(type="LoadBalancer", loadBalancerClass=BALANCED["loadBalancerClass"])
    assert "loadBalancerSourceRanges" not in open_again["spec"]
    assert open_again["spec"]["externalTrafficPolicy"] == "Cluster"

    after = painter.set_service()
    assert kept(after) == kept(before)


def test_ports_of_nodes_are_given_back(painter: Painter) -> None:
    before = painter.service()
    assert published(painter.set_service(type="NodePort", externalTrafficPolicy="Local")) == {"http": True}
    assert published(painter.set_service(type="NodePort", ports=["http", "grpc"])) == {"http": True, "grpc": True}
    assert kept(painter.set_service()) == kept(before)
    assert published(painter.set_service(ports=["http"])) == {"http": False}


def test_what_workers_and_the_operator_use_is_no_less_while_only_http_is_published(painter: Painter) -> None:
    headless = painter.api.get(f"{painter.core}/services/painter-router")
    painter.set_service(**BALANCED)
    again = painter.api.get(f"{painter.core}/services/painter-router")
    assert again == headless
    assert published(again) == {"http": False, "grpc": False}
    assert again["spec"]["clusterIP"] == "None"


def test_a_range_that_is_none_is_told_in_the_status(painter: Painter) -> None:
    painter.edit(router={"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["1:::2/64"]}})
    words = "spec.router.service.loadBalancerSourceRanges[0]: '1:::2/64' does not appear"
    painter.until_condition("Reconciled", "False", "InvalidSpec", words)
    assert painter.service()["spec"]["type"] == "ClusterIP"
