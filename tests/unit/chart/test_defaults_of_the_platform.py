"""What the values say of the platform is what the operator reads of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffusion_operator.api import Platform, load_platform
from diffusion_operator.api.platform import platform_schema
from diffusion_operator.settings import Settings
from unit.chart.charts import SCHEMA, VALUES, render

GIVEN: dict[str, Any] = {
    "imageRegistry": "mirror.example:5000/diffusion",
    "imagePullSecrets": [{"name": "mirror"}],
    "caBundle": {"configMap": "trusted-ca"},
    "storageClassName": "fast",
    "modelCachePath": "/mnt/disks/models",
    "securityProfile": "OpenShift",
    "commonLabels": {"team": "paint"},
    "commonAnnotations": {"example.com/a": "b: c"},
    "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.5/32"}}], "ports": [{"port": 3128}]}],
    "pods": {
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "tolerations": [{"key": "spot", "operator": "Exists"}],
        "podSecurityContext": {"supplementalGroups": [7]},
    },
    "workers": {"nodeSelector": {"pool": "gpus"}, "securityContext": {"runAsNonRoot": False}},
    "gpuWorkers": {"runtimeClassName": "nvidia", "priorityClassName": "high"},
    "router": {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]},
}


def read(values: dict[str, Any]) -> tuple[list[str], str | None]:
    """The operator's flags, and its file."""
    rendered = render({"platform": values})
    maps = [item for item in rendered.of("ConfigMap", "operator") if "platform.yaml" in item["data"]]
    return rendered.container["args"], maps[0]["data"]["platform.yaml"] if maps else None


def test_without_values_there_is_no_file() -> None:
    flags, file = read({})
    assert file is None
    assert not any(flag.startswith("--platform-file") for flag in flags)
    assert "volumes" in render().pod["spec"]
    assert [volume["name"] for volume in render().pod["spec"]["volumes"]] == ["tmp"]


def test_the_operator_reads_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags, file = read(GIVEN)
    assert file is not None
    path = tmp_path / "platform.yaml"
    path.write_text(file)
    mounts = render({"platform": GIVEN}).container["volumeMounts"]
    (mounted,) = (mount for mount in mounts if mount["name"] == "platform")
    monkeypatch.setenv("DIFFUSION_OPERATOR_POD_NAME", "pod-0")
    flag = f"--platform-file={mounted['mountPath']}/platform.yaml"
    assert flag in flags
    found = Settings.read([f"--platform-file={path}"]).platform
    assert found == load_platform(GIVEN)
    assert found != Platform()


def test_another_value_restarts_the_operator() -> None:
    others = ({}, {"storageClassName": "fast"}, {"storageClassName": "slow"})
    templates = [render({"platform": values}).pod["metadata"].get("annotations", {}) for values in others]
    assert len({str(annotations) for annotations in templates}) == 3


def test_values_and_file_have_the_same_keys() -> None:
    def keys(schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        inner = schema.get("properties", {}) if depth else {}
        return {name: keys(part, depth - 1) for name, part in inner.items()}

    ours, theirs = SCHEMA["properties"]["platform"], platform_schema()
    assert keys(ours, 1) == keys(theirs, 1)
    for section in ("caBundle", "pods", "workers", "gpuWorkers", "router"):
        shown = VALUES["platform"][section].keys()
        assert shown == ours["properties"][section]["properties"].keys()
        assert shown == theirs["properties"][section]["properties"].keys()


def test_on_openshift_the_operators_own_pods_name_no_user() -> None:
    plain, found = render(), render({"platform": {"securityProfile": "OpenShift"}})
    named = {"runAsUser", "runAsGroup", "fsGroup"}
    for pod, before in (
        (found.pod["spec"], plain.pod["spec"]),
        (found.one("Pod", "test")["spec"], plain.one("Pod", "test")["spec"]),
    ):
        assert named <= before["securityContext"].keys()
        assert pod["securityContext"] == {
            key: value for key, value in before["securityContext"].items() if key not in named
        }


def test_the_file_is_yaml_that_people_can_read() -> None:
    assert yaml.safe_load(read({"commonLabels": {"team": "paint"}})[1] or "") == {"commonLabels": {"team": "paint"}}
