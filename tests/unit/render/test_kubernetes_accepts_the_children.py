"""The children of every example and feature are objects that Kubernetes takes, in each minor version that is supported,
and pods that the strictest PodSecurity level admits unless they use RDMA, or the node's shared memory or folders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import kubernetes_validate
import pytest

from diffusion_operator.api import crd, schema
from unit.render.children import BASES, SIMPLEST, Child, main_container, of_kind, pod_spec, whole

WHOLE: Final = {name: whole(name) for name in (SIMPLEST, *BASES)}
VERSIONS: Final = ("1.30", "1.34", "1.37")
# Volumes from images, and claims of devices, are younger than the oldest of these.
SINCE: Final = {"model-from-an-image": "1.34", "rdma-by-claims": "1.34"}

UNRESTRICTED: Final = {
    *("digits-shm", "flux-rdma", "model-from-a-cache", "rdma-by-claims", "rdma-by-edge", "rdma-on-several-rails"),
    *("rdma-on-the-host-network", "rdma-with-networks"),
}
RESTRICTED_VOLUMES: Final = {"configMap", "emptyDir", "persistentVolumeClaim", "image"}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_own_schemas_know_every_field(version: str) -> None:
    for name, children in WHOLE.items():
        if version < SINCE.get(name, ""):
            continue
        for child in children:
            if child["kind"] not in ("PodMonitor", crd.SCALER_KIND):
                kubernetes_validate.validate(child, version, strict=True)


def test_role_scalers_fit_their_definition() -> None:
    definition = crd.schema(crd.SCALER_PLURAL)
    found = [scaler for children in WHOLE.values() for scaler in of_kind(children, crd.SCALER_KIND).values()]
    assert found
    for scaler in found:
        bare = {**scaler, "metadata": {}}
        assert list(schema.unknown_fields(bare, definition)) == []
        assert list(schema.schema_errors(schema.with_defaults(bare, definition), definition)) == []


@pytest.mark.parametrize("name", WHOLE)
def test_no_child_has_a_field_that_the_api_server_would_not_keep(name: str) -> None:
    """It drops empty values; one that is asked for each time would always be missing."""
    assert [path for child in WHOLE[name] for path in _empty(child, child["kind"])] == []


def _empty(value: object, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            # In these an empty object says something; values of a map are kept.
            meant = key in ("emptyDir", "namespaceSelector") or path.endswith(".data")
            if item in ("", [], {}, None) and not meant:
                yield f"{path}.{key}"
            yield from _empty(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _empty(item, f"{path}[{index}]")


@pytest.mark.parametrize("name", WHOLE)
def test_pods_pass_pod_security_restricted_unless_the_transport_needs_more(name: str) -> None:
    sets = of_kind(WHOLE[name], "StatefulSet")
    admitted = {role: _restricted(stateful_set) for role, stateful_set in sets.items()}
    assert admitted.pop(f"{name}-router")
    if name == "rdma-by-edge":
        assert admitted.pop(f"{name}-encoder")
    assert set(admitted.values()) == {name not in UNRESTRICTED}


def _restricted(stateful_set: Child) -> bool:
    pod, container = pod_spec(stateful_set), main_container(stateful_set)
    context = {**pod["securityContext"], **container["securityContext"]}
    return (
        context["runAsNonRoot"] is True
        and context["runAsUser"] != 0
        and context["seccompProfile"] == {"type": "RuntimeDefault"}
        and context["allowPrivilegeEscalation"] is False
        and context["capabilities"] == {"drop": ["ALL"]}
        and not pod.get("hostNetwork")
        and all((volume.keys() - {"name"}) <= RESTRICTED_VOLUMES for volume in pod["volumes"])
    )
