"""The operator as the chart installs it, from images that the nodes have already."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from testbed.controlplane.cluster import Cluster

CHART = Path(__file__).parents[3] / "charts" / "diffusion-operator"
NAMESPACE = "diffusion-system"
RELEASE = "diffusion-operator"
READY_SECONDS = 120


@contextlib.contextmanager
def installed(cluster: Cluster, *values: str) -> Iterator[None]:
    """`values` are chart values beyond its defaults: `"resyncSeconds=30"`."""
    settings = [argument for value in values for argument in ("--set", value)]
    cluster.helm(
        *("install", RELEASE, CHART, "--namespace", NAMESPACE, "--create-namespace"),
        *("--wait", f"--timeout={READY_SECONDS}s", *settings),
    )
    try:
        yield
    finally:
        cluster.helm("uninstall", RELEASE, "--namespace", NAMESPACE)
