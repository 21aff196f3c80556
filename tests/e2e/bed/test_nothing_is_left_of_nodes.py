"""However a test run ends, its nodes end with it, and what they had of this machine is given back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.controlplane.children import Folder
from testbed.nodes import machine
from testbed.nodes.cluster import NodeCluster

TESTS = Path(__file__).parents[2]
SCRIPT = """
import sys
from testbed.nodes import images
from testbed.nodes.boxes import Boxes
from testbed.nodes.cluster import NodeCluster

with NodeCluster(nodes=1) as cluster:
    cluster.load_image(images.box(cluster.folder))
    boxes = Boxes(cluster, "default")
    boxes.make("box")
    boxes.wait_ready("box")
    print(cluster.folder, flush=True)
    sys.stdin.read()
"""


def processes(folder: Path) -> set[str]:
    """That were told of a run's folder, see mounts of it (its pods' do), or are in its control groups.

    One that ends has neither arguments nor mounts any more, but keeps its group for a moment.
    """
    found = set()
    for group in groups(folder):
        for file in group.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                found.update(file.read_text().split())
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ends meanwhile
            if folder.name in (process / "cmdline").read_text() + (process / "mountinfo").read_text():
                found.add(process.name)
    return found


def links(folder: Path) -> set[str]:
    bridges = {link.parent.name for link in Path("/sys/class/net").glob("*/ifalias") if str(folder) in link.read_text()}
    ports = {port.name for bridge in bridges for port in Path(f"/sys/class/net/{bridge}/brif").iterdir()}
    return bridges | ports


def groups(folder: Path) -> set[Path]:
    return {
        group
        for depth in ("*", "*/*")
        for group in Path("/sys/fs/cgroup").glob(f"{depth}")
        if folder.name in group.name
    }


@pytest.fixture
def run() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A test run with a node that runs a pod, and its folder."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        try:
            assert started.stdout is not None
            folder = Path(started.stdout.readline().strip())
            assert folder.is_absolute(), "the run ended before its pod was ready"
            yield started, folder
        finally:
            started.kill()


def test_a_run_that_ends_takes_its_nodes_along(run: tuple[subprocess.Popen[str], Path]) -> None:
    started, folder = run
    bridge = next(iter(links(folder)))
    assert len(processes(folder)) > 10
    assert len(links(folder)) == 2
    assert groups(folder)
    started.communicate("", timeout=60)
    assert started.returncode == 0
    assert not processes(folder)
    assert not Path(f"/sys/class/net/{bridge}").exists()
    assert not groups(folder)
    assert not folder.exists()


def test_what_a_killed_run_left_the_next_one_removes(
    cluster: NodeCluster, run: tuple[subprocess.Popen[str], Path]
) -> None:
    started, folder = run
    names = links(folder)
    assert len(names) == 2
    started.send_signal(signal.SIGKILL)
    cluster.until(lambda: not processes(folder), 20, "its processes are gone")
    machine.sweep()  # as the next one's start
    Folder().remove()
    assert not any(Path(f"/sys/class/net/{name}").exists() for name in names)
    assert not groups(folder)
    assert not folder.exists()
    assert cluster.folder.exists(), "one in use must stay"
    assert len(links(cluster.folder)) == 1 + len(cluster.nodes)
