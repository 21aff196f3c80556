"""The cluster that the pages are read with: real in all but its pods, for which the test plays what they would do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.docs.played import DeployedOperator, EveryWorkerIsRegistered
from cluster.user import User
from testbed.controlplane import programs
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.metrics_source import MetricsSource

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts/diffusion-operator"
RELEASE, SYSTEM = "diffusion-operator", "diffusion-system"
KEDA = ("github.com/kedacore/keda/v2", "v2.21.0")
VERTICAL = ("k8s.io/autoscaler/vertical-pod-autoscaler", "v1.5.1")
FLUX = ("github.com/fluxcd/kustomize-controller", "v1.7.3")
PROMETHEUS_OPERATOR = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")
MONITORING = ("servicemonitors", "podmonitors", "prometheusrules")
NODES = 3
DEVICES = {"rdma/hca": 8}

_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def place() -> Iterator[Cluster]:
    """With the kinds of others that the pages speak of, as their projects publish them; of ours, nothing yet."""
    impatient = ("--horizontal-pod-autoscaler-sync-period=1s",)
    with Cluster(controller_args=impatient) as running:
        for number in range(NODES):
            running.add_node(f"node-{number}", **DEVICES)
        monitors = programs.go_module(*PROMETHEUS_OPERATOR) / "example/prometheus-operator-crd"
        scaled_objects = programs.go_module(*KEDA) / "config/crd/bases/keda.sh_scaledobjects.yaml"
        vertical = programs.go_module(*VERTICAL) / "deploy/vpa-v1-crd-gen.yaml"
        kinds = [monitors / f"monitoring.coreos.com_{kind}.yaml" for kind in MONITORING]
        kustomizations = programs.go_module(*FLUX) / "config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml"
        for file in (*kinds, scaled_objects, vertical, kustomizations):
            # Too large for the annotation of a plain apply.
            running.kubectl("apply", "--server-side", "-f", file)
        running.define()
        # Where Argo CD keeps its settings.
        running.add_namespace("argocd")
        running.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "argocd-cm", "namespace": "argocd"}}
        )
        yield running


@pytest.fixture(scope="package")
def router(place: Cluster) -> Iterator[EveryWorkerIsRegistered]:
    with EveryWorkerIsRegistered(place) as running:
        yield running


@pytest.fixture(scope="package")
def operator(
    place: Cluster, router: EveryWorkerIsRegistered, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Runs whenever its Deployment is there."""
    log = tmp_path_factory.mktemp("operator") / "operator.log"
    with DeployedOperator(place, SYSTEM, RELEASE, router.flag, log=log):
        yield


@pytest.fixture
def nothing(place: Cluster, operator: None) -> None:
    """Neither operator nor definitions."""
    if _installed(place):
        place.helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait")
    place.kubectl("delete", "-f", ROOT / "crds", "--ignore-not-found")


@pytest.fixture
def namespace(place: Cluster) -> Iterator[str]:
    with place.namespace(f"reader-{next(_numbers)}") as name:
        yield name


@pytest.fixture
def installed(place: Cluster, operator: None) -> None:
    """The operator, by the chart, with images from where the quick start has them."""
    if not _installed(place):
        images = [f"pipelines.{role}Image=registry.example/diffusion/{role}:0.1.0" for role in ("worker", "router")]
        options = ("--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout=60s", f"--set={','.join(images)}")
        place.helm("install", RELEASE, CHART, *options)


@pytest.fixture
def digits(place: Cluster, installed: None, namespace: str) -> User:
    """What most pages begin with: the operator, and its first example in the current namespace."""
    user = User(place, namespace, "digits")
    user.apply_example("digits.yaml")
    return user


@pytest.fixture
def metrics(place: Cluster) -> Iterator[MetricsSource]:
    """What the adapter of the page on scaling would serve."""
    with MetricsSource(place) as source:
        yield source


def _installed(place: Cluster) -> bool:
    return bool(place.helm("list", "--namespace", SYSTEM, "--short").strip())
