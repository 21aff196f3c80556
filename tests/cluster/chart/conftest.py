"""A control plane that knows nothing of pipelines until helm tells it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.chart.release import Release
from testbed.controlplane import programs
from testbed.controlplane.cluster import Cluster

PROMETHEUS_OPERATOR = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")

_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def bare() -> Iterator[Cluster]:
    with Cluster() as running:
        for number in range(2):
            running.add_node(f"node-{number}")
        yield running


@pytest.fixture(scope="package")
def monitored(bare: Cluster) -> Cluster:
    """With the Prometheus operator's API, as that project publishes it."""
    folder = programs.go_module(*PROMETHEUS_OPERATOR) / "example/prometheus-operator-crd"
    for kind in ("servicemonitors", "podmonitors", "prometheusrules"):
        bare.define(folder / f"monitoring.coreos.com_{kind}.yaml")
    return bare


@pytest.fixture
def place(bare: Cluster) -> str:
    name = f"system-{next(_numbers)}"
    bare.add_namespace(name, **{"pod-security.kubernetes.io/enforce": "restricted"})
    return name


@pytest.fixture
def paint(bare: Cluster) -> str:
    """A namespace for pipelines."""
    name = f"paint-{next(_numbers)}"
    bare.add_namespace(name)
    return name


@pytest.fixture
def release(bare: Cluster, place: str, tmp_path: Path) -> Iterator[Release]:
    """Not installed yet. Uninstalled afterwards, if it is then."""
    found = Release(bare, place, tmp_path)
    yield found
    if bare.helm("list", "--namespace", place, "--short").strip():
        found.uninstall()
