"""What the chart renders is what Kubernetes takes, in each version that the chart is for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from kubernetes_validate import utils

from unit.chart.charts import CHART, EVERYTHING, METADATA, PROMETHEUS, Object, Refused, at, helm, merged, render

utils.schema_contents = cache(utils.schema_contents)  # parsed anew for each document otherwise

SELECTOR_LABELS = {f"app.kubernetes.io/{name}" for name in ("name", "instance", "component")}
LABELS = SELECTOR_LABELS | {f"app.kubernetes.io/{name}" for name in ("version", "part-of", "managed-by")}
VERSIONS = [version for version in utils.all_versions() if int(version.split(".")[1]) >= 30]

MATRIX: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "everything": EVERYTHING,
    "two namespaces": merged(EVERYTHING, {"watchNamespaces": ["paint", "film"]}),
    "one replica behind a lease": {"leaderElection": {"enabled": True}},
    "rights made elsewhere": {"rbac": {"create": False}, "serviceAccount": {"create": False, "name": "given"}},
    "pinned": {"image": {"digest": f"sha256:{'0a' * 32}"}, "imagePullSecrets": [{"name": "registry"}]},
    "placed": {
        "priorityClassName": "system-cluster-critical",
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "control-plane", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}]
                }
            }
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
            {"maxSkew": 1, "topologyKey": "node", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}},
        ],
    },
    "labelled": merged(
        EVERYTHING,
        {
            "commonLabels": {"team": "serving"},
            "podLabels": {"team": "operators", "sidecar.istio.io/inject": "false"},
            "podAnnotations": {"prometheus.io/scrape": "true"},
            "serviceAccount": {"annotations": {"iam.example.com/role": "none"}},
            "metricsService": {"annotations": {"a": "b"}},
            "monitoring": {"dashboards": {"annotations": {"grafana_folder": "Diffusion"}}},
        },
    ),
    "nothing of its own": {"podSecurityContext": {"runAsUser": None}, "resources": {"limits": None, "requests": None}},
    "a monitor of pods": {"monitoring": {"operator": {"kind": "PodMonitor", "interval": "15s"}}},
    "told more": {
        "extraArgs": ["--router-address={pipeline}-router-api.{namespace}.svc.cluster.local:{port}"],
        "extraEnv": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
    },
    "closed": {"networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {"matchLabels": {"name": "m"}}}]}},
}


@pytest.fixture(scope="module", params=MATRIX)
def documents(request: pytest.FixtureRequest) -> list[Object]:
    return list(render(MATRIX[request.param], apis=PROMETHEUS).objects)


def test_helm_finds_no_fault() -> None:
    assert "0 chart(s) failed" in helm("lint", "--strict", CHART)


def test_each_document_is_valid_in_each_version_of_kubernetes(documents: list[Object]) -> None:
    assert {"1.30", "1.37"} <= {utils.major_minor(version) for version in VERSIONS}
    faults = [
        f"{version}: {document['kind']} {'.'.join(map(str, error.absolute_path))}: {error.message}"
        for version in VERSIONS
        for document in documents
        if not document["apiVersion"].startswith("monitoring.coreos.com/")
        for error in _errors(document, version)
    ]
    assert faults == []


def test_everything_carries_the_recommended_labels(documents: list[Object]) -> None:
    for document in documents:
        labels = document["metadata"]["labels"]
        assert labels.keys() >= LABELS, document["kind"]
        assert labels["app.kubernetes.io/name"] == "diffusion-operator"
        assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", value) for value in labels.values())


def test_selectors_hold_nothing_that_an_upgrade_changes(documents: list[Object]) -> None:
    selectors = [selector for document in documents for selector in _label_selectors(document)]
    assert selectors
    for selector in selectors:
        ours = {key for key in selector if key.startswith(("app.kubernetes.io/", "helm.sh/"))}
        assert ours <= SELECTOR_LABELS | {"app.kubernetes.io/managed-by"}


def test_no_two_documents_are_the_same_object(documents: list[Object]) -> None:
    names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in documents]
    assert len(names) == len(set(names))


def test_namespaced_objects_say_their_namespace(documents: list[Object]) -> None:
    """So that `helm template | kubectl apply -f -` puts them where helm would."""
    for document in documents:
        of_the_cluster = document["kind"].startswith(("Cluster", "ValidatingAdmissionPolicy"))
        assert ("namespace" in document["metadata"]) is not of_the_cluster


def test_the_same_values_give_the_same_text() -> None:
    """Nothing is drawn or dated, or every upgrade would restart the operator."""
    values = json.dumps(MATRIX["labelled"])
    apis = [part for api in PROMETHEUS for part in ("--api-versions", api)]
    first, second = (helm("template", "r", CHART, *apis, "--values", "-", stdin=values) for _ in range(2))
    assert first == second


def test_two_releases_of_one_name_do_not_meet() -> None:
    one, other = (
        {
            (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"])
            for item in render(EVERYTHING, apis=PROMETHEUS, namespace=namespace).objects
        }
        for namespace in ("one", "other")
    )
    assert not one & other


@pytest.mark.parametrize("release", ["d", "my-diffusion-operator", "x" * 53])
def test_names_that_become_host_names_stay_within_63_characters(release: str) -> None:
    """53 characters are what helm allows a release."""
    rendered = render(EVERYTHING, apis=PROMETHEUS, release=release)
    for document in rendered.of("Service") + rendered.of("Pod"):
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", document["metadata"]["name"])


def test_it_can_be_part_of_another_chart(tmp_path: Path) -> None:
    """Helm then adds `global` to its values, which a schema without it would refuse."""
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts/diffusion-operator").symlink_to(CHART)
    dependency = {"name": "diffusion-operator", "version": METADATA["version"]}
    parent = {"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [dependency]}
    (tmp_path / "Chart.yaml").write_text(json.dumps(parent))
    values = at(("diffusion-operator", "concurrency"), 3) | {"global": {"registry": "mine"}}
    assert "--concurrency=3" in render(values, chart=tmp_path).container["args"]


def test_it_refuses_a_cluster_that_is_too_old() -> None:
    with pytest.raises(Refused, match=r"incompatible with Kubernetes v1\.29\.15"):
        render(kubernetes="1.29.15")


@pytest.mark.parametrize("kubernetes", ["1.30.0", "1.33.4-gke.1500", "1.35.1-eks-0a1b2c3"])
def test_it_takes_versions_as_clouds_write_them(kubernetes: str) -> None:
    assert render(kubernetes=kubernetes).objects


def _errors(document: Object, version: str) -> list[utils.ValidationError]:
    try:
        utils.validate(document, version, strict=True)
    except utils.ValidationError as error:
        return [error]
    return []


def _label_selectors(document: Object) -> list[Mapping[str, str]]:
    spec = document.get("spec", {})
    selectors = [spec.get("selector"), spec.get("podSelector")]
    selectors += spec.get("template", {}).get("spec", {}).get("topologySpreadConstraints", [])
    found = []
    for selector in selectors:
        if isinstance(selector, Mapping):
            inner = selector.get("labelSelector", selector)
            found.append(inner.get("matchLabels", {} if "matchExpressions" in inner else inner))
    return [selector for selector in found if selector]
