"""Role scalers: one for each role whose pods are counted by somebody else, an autoscaler or a person.

`spec.replicas` has one writer. The operator names a number once, when it makes the object (`seed`), and never again:
what `scaler` gives, which is applied each time, has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusion_operator.api import API_VERSION, SCALER_KIND, Pipeline, RoleSpec
from diffusion_operator.render import names


def scaler(pipeline: Pipeline, spec: RoleSpec) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": SCALER_KIND,
        "metadata": names.metadata(pipeline, names.child(pipeline, spec.role), spec.role),
        "spec": {"pipelineRef": {"name": pipeline.name}, "role": spec.role.value},
    }


def seed(scaler: Mapping[str, Any], replicas: int) -> dict[str, Any]:
    """The scaler as it is made. Never with 0 pods: a HorizontalPodAutoscaler takes that for scaling switched off."""
    return {**scaler, "spec": {**scaler["spec"], "replicas": max(1, replicas)}}
