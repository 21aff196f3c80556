"""Pipelines for these tests, and ways to look at what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from diffusion_operator.api import Pipeline, load_pipeline
from diffusion_operator.render import Images, names, render
from testbed.examples import resource

FEATURES = Path(__file__).parent / "features"
GOLDEN = Path(__file__).parent / "golden"
IMAGES = Images(worker="example/worker:1", router="example/router:1")

SIMPLEST = "digits"
BASES = {
    "digits-colocated": SIMPLEST,
    "digits-external-scaling": SIMPLEST,
    "digits-shm": SIMPLEST,
    "digits-two-denoisers": SIMPLEST,
    "flux-rdma": SIMPLEST,
    "adapters": SIMPLEST,
    "schedulers": SIMPLEST,
    "scheduling": SIMPLEST,
    "control-nets": SIMPLEST,
    "ip-adapters": SIMPLEST,
    "pod-templates": SIMPLEST,
    "caches-and-claims": "digits-colocated",
    "isolated-and-monitored": "digits-colocated",
    "model-from-a-cache": "digits-colocated",
    "model-from-a-claim": "digits-colocated",
    "model-from-an-image": "digits-colocated",
    "published-by-a-load-balancer": "digits-colocated",
    "rdma-by-claims": "digits-colocated",
    "rdma-by-edge": SIMPLEST,
    "rdma-on-several-rails": "digits-colocated",
    "rdma-on-the-host-network": "digits-colocated",
    "rdma-with-networks": "digits-colocated",
    "together-in-a-zone": "digits",
}
"""The examples and the files in `features`; of each, the simpler one that it is compared with."""

Child = dict[str, Any]


def whole(name: str) -> list[Child]:
    """The children of an example or a feature."""
    file = FEATURES / f"{name}.yaml"
    return render(load_pipeline(yaml.safe_load(file.read_text()) if file.exists() else resource(name)), IMAGES)


def pipeline(**sections: Any) -> Pipeline:
    """The digits example with values of its spec's sections set, or replaced where they are no objects."""
    document = resource("digits")
    for key, value in sections.items():
        if isinstance(value, dict):
            document["spec"].setdefault(key, {}).update(value)
        else:
            document["spec"][key] = value
    return load_pipeline(document)


def rdma_pipeline(rdma: Child, **sections: Any) -> Pipeline:
    return pipeline(transport={"protocol": "auto", "rdma": rdma}, **sections)


def of_kind(children: Sequence[Child], kind: str) -> dict[str, Child]:
    """By name."""
    return {child["metadata"]["name"]: child for child in children if child["kind"] == kind}


def stateful_sets(children: Sequence[Child]) -> dict[str, Child]:
    """By role."""
    return {
        child["metadata"]["labels"][names.ROLE_LABEL]: child for child in children if child["kind"] == "StatefulSet"
    }


def workers(children: Sequence[Child]) -> list[Child]:
    return [found for role, found in stateful_sets(children).items() if role != "router"]


def pod_spec(stateful_set: Child) -> Child:
    found: Child = stateful_set["spec"]["template"]["spec"]
    return found


def main_container(stateful_set: Child) -> Child:
    return next(container for container in pod_spec(stateful_set)["containers"] if container["name"] == "main")


def environment(stateful_set: Child) -> dict[str, Any]:
    """What the container main sets itself."""
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in main_container(stateful_set)["env"]}


def shared_environment(children: Sequence[Child]) -> dict[str, str]:
    """What all workers take from the generation's ConfigMap."""
    (config_map,) = of_kind(children, "ConfigMap").values()
    for worker in workers(children):
        assert main_container(worker)["envFrom"] == [{"configMapRef": {"name": config_map["metadata"]["name"]}}]
    data: dict[str, str] = config_map["data"]
    return data
