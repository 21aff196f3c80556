"""What other tests hold Mooncake over TCP to, held over RDMA: in a guest with Soft-RoCE, where verbs are real."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rdma.inner import SOFT_ROCE, judged, pytest_in_guest
from testbed.guests.running import run

# Emulation takes twenty times as long, and other work on this machine more.
pytestmark = pytest.mark.timeout(1800)
SECONDS = 1500.0

Report = Callable[[str], None]


def test_the_contract_of_transports_holds_over_rdma(share: Path, report: Report) -> None:
    suite = pytest_in_guest("contract", "tests/contract/transport", "-k", "mooncake-rdma", slowness=3)
    done = run(f"{SOFT_ROCE} && {suite}", share, seconds=SECONDS, mib=3072)
    for line in judged("contract", done, share):
        report(line)


def test_devices_that_can_not_be_used_are_told_from_those_that_can(share: Path, report: Report) -> None:
    suite = pytest_in_guest("devices", "tests/rdma/inside/devices.py")
    for line in judged("devices", run(f"{SOFT_ROCE} && {suite}", share, seconds=SECONDS), share):
        report(line)


def test_a_whole_pipeline_runs_over_rdma_and_without_a_device_i10_holds(share: Path, report: Report) -> None:
    suite = pytest_in_guest("pipeline", "tests/rdma/inside/pipeline.py")
    for line in judged("pipeline", run(suite, share, seconds=SECONDS, mib=6144), share):
        report(line)
