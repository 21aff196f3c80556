"""StatefulSets: one for each role that has pods of its own."""

from typing import Any

from diffusion_operator.api import Pipeline, RoleSpec
from diffusion_operator.render import names


def stateful_set(pipeline: Pipeline, spec: RoleSpec, template: dict[str, Any]) -> dict[str, Any]:
    name = names.child(pipeline, spec.role)
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {
            "name": name,
            "namespace": pipeline.namespace,
            "labels": names.labels(pipeline, spec.role),
        },
        "spec": {
            "replicas": spec.replicas,
            "serviceName": name,
            # Workers do not depend on one another's order, and a start one by one would multiply the time to load.
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": names.selector(pipeline, spec.role)},
            "template": template,
        },
    }
