"""The documentation's commands that need pods which run: a reader with an operator and its first example."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.controlplane.children import free_ports
from testbed.deployment.pipeline import Deployed
from testbed.documents import E2E, PAGES, Page, run_blocks
from testbed.documents.reader import environment
from testbed.nodes.cluster import NodeCluster

PORTS = (8000, 8080, 50051)
# The page on RDMA has its example in a namespace of its own.
NAMESPACE = "painting"
READ = [page for page in PAGES if any(block.where == E2E for block in page.blocks)]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def digits(deploy: Callable[[str], Deployed]) -> Deployed:
    return deploy("digits")


@pytest.mark.parametrize("page", READ, ids=str)
def test_a_page_does_what_it_says(page: Page, cluster: NodeCluster, digits: Deployed, tmp_path: Path) -> None:
    digits.wait_ready()
    work = tmp_path / "work"
    work.mkdir()
    replacing = {f"--namespace {NAMESPACE}": f"--namespace {digits.namespace}"}
    # The reader's machine has these ports free, this one may not.
    for port, free in zip(PORTS, free_ports(len(PORTS)), strict=True):
        replacing |= {f" {port}:{port}": f" {free}:{port}", f"127.0.0.1:{port}": f"127.0.0.1:{free}"}
    reader = environment(cluster, digits.namespace, tmp_path / "home")
    assert run_blocks(page, E2E, reader, work, replacing=replacing)
