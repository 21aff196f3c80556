"""Every command of the documentation that needs no running pod, run as a reader runs it: page by page, in order."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.user import User
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.metrics_source import MetricsSource
from testbed.documents import CLUSTER, PAGES, Page, run_blocks
from testbed.documents.reader import environment

# What a page assumes, as it says itself; the others, that digits.yaml is applied as well.
ASSUMES_NOTHING = ("README.md", "docs/models.md", "docs/quickstart.md", "docs/simulating.md")
ASSUMES_THE_OPERATOR = ("docs/rdma.md", "docs/sizing.md")
READ = [page for page in PAGES if any(block.where == CLUSTER for block in page.blocks)]


def pages(*paths: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", [page for page in READ if page.path in paths], ids=str)


def read(page: Page, cluster: Cluster, namespace: str, folder: Path) -> None:
    work = folder / "work"
    work.mkdir()
    assert run_blocks(page, CLUSTER, environment(cluster, namespace, folder / "home"), work)


@pages(*ASSUMES_NOTHING)
def test_a_page_that_assumes_nothing(page: Page, place: Cluster, nothing: None, namespace: str, tmp_path: Path) -> None:
    read(page, place, namespace, tmp_path)


@pages(*ASSUMES_THE_OPERATOR)
def test_a_page_that_assumes_the_operator(
    page: Page, place: Cluster, installed: None, namespace: str, tmp_path: Path
) -> None:
    read(page, place, namespace, tmp_path)


@pages(*({page.path for page in READ} - {*ASSUMES_NOTHING, *ASSUMES_THE_OPERATOR}))
def test_a_page_that_assumes_the_operator_and_its_first_example(
    page: Page, place: Cluster, digits: User, tmp_path: Path
) -> None:
    read(page, place, digits.namespace, tmp_path)


def test_the_shown_autoscaler_moves_the_role_by_the_work_there_is(digits: User, metrics: MetricsSource) -> None:
    (shown,) = (block for page in PAGES for block in page.blocks if block.file == "hpa.yaml")
    (target,) = (metric["external"] for metric in yaml.safe_load(shown.text)["spec"]["metrics"])
    metrics.set(target["metric"]["name"], 6)
    digits.edit(roles={"denoiser": {"scaling": {"mode": "External"}}})
    digits.kubectl("apply", "-f", "-", stdin=shown.text)
    digits.until_counts(60, denoiser=6 // int(target["target"]["averageValue"]))
