"""Two guests on a private link: pulls across nodes, and the link cut in the middle of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rdma.inner import SOFT_ROCE, judged, pytest_in_guest
from testbed.guests.running import Guest, Link
from testbed.waiting import until

pytestmark = pytest.mark.timeout(900)
SECONDS = 600.0


def test_pulls_across_nodes_end_in_time_whatever_becomes_of_the_link(
    share: Path, tmp_path: Path, report: Callable[[str], None]
) -> None:
    link = Link(tmp_path / "link")
    producer = f"{SOFT_ROCE} && PYTHONPATH=tests python3 tests/rdma/inside/far_node.py 2>&1"
    consumer = f"{SOFT_ROCE} && {pytest_in_guest('two-nodes', 'tests/rdma/inside/two_nodes.py')}"
    with Guest(producer, share, name="far", address="10.78.0.1/24", link=link, listens=True) as far:
        until(link.socket.exists, 10, "qemu listens for the other end of the link")
        with Guest(consumer, share, name="near", address="10.78.0.2/24", link=link) as near:
            done = near.wait(SECONDS)
            if done.status != 0:
                pytest.fail(f"{done.output}\n--- the other node\n{far.wait(10).output}")
            for line in judged("two-nodes", done, share):
                report(line)
            assert far.wait(60).status == 0
