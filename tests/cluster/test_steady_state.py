"""Where everything is as it should be, the operator writes nothing (I8): counted by the API server's audit log.

A resync lists everything and compares every pipeline anew, every 10 minutes by default. Here it comes each second, so
that a short test has more of them than a night has. What only time brings (streams that end after some minutes, late
conditions) takes STEADY_STATE_SECONDS=600.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import pytest

from diffusion_operator.reconcile.reconciler import PROGRESS_SECONDS
from testbed.controlplane.audit import Entry
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator
from testbed.controlplane.pipelines import Pipelines, pipeline

SECONDS: Final = float(os.environ.get("STEADY_STATE_SECONDS", "25"))
EXTERNAL: Final = {"scaling": {"mode": "External"}}
RDMA: Final = {"backend": "mooncake", "protocol": "rdma", "rdma": {"resourceName": "rdma/none-has-it"}}

SETTLING: Final = (
    pipeline("split"),
    pipeline("monolith", roles={"encoder": {"colocateWith": "denoiser"}, "decoder": {"colocateWith": "denoiser"}}),
    pipeline("scaled-by-others", roles={"encoder": EXTERNAL, "denoiser": {"replicas": 2, **EXTERNAL}}),
    pipeline("isolated", networkPolicy={"mode": "Isolate"}, roles={"denoiser": {"replicas": 3}}),
    pipeline("suspended", suspend=True),
)
PENDING: Final = pipeline("pending", transport=RDMA)


class Steady:
    """Two replicas, and what they asked the API server for."""

    def __init__(self, cluster: Cluster, pipelines: Pipelines, operators: Callable[..., Operator]) -> None:
        self._cluster = cluster
        self._user = f"operator:{pipelines.namespace}"
        flags = (
            "--resync-seconds=1",
            "--router-address=127.0.0.1:1",
            "--leader-elect",
            "--lease-seconds=4",
            f"--lease-namespace={pipelines.namespace}",
        )
        self.first, self.second = operators(*flags), operators(*flags)
        self.mark = cluster.audit.mark()

    def begin(self) -> None:
        """From now on."""
        self.mark = self._cluster.audit.mark()

    def writes(self) -> list[Entry]:
        """All but those of the Lease."""
        found = self._cluster.audit.writes(self.mark, user=self._user)
        return [entry for entry in found if entry.resource != "leases"]

    def resyncs(self) -> int:
        listed = self._cluster.audit.entries(self.mark, user=self._user, verb="list", resource="diffusionpipelines")
        return len(listed)

    def until_resyncs(self, count: int) -> None:
        self._cluster.until(lambda: self.resyncs() >= count, 5 * count + 30, f"{count} resyncs", longest_pause=1)

    def until_leads(self, operator: Operator) -> None:
        self._cluster.until(lambda: operator.metric("leader_election_master_status") == 1, 30, "the other one leads")

    def until_it_rests(self) -> None:
        """Until for longer than mere counts may wait to be told, nothing was written."""

        def rests() -> bool:
            self.begin()
            self.until_resyncs(round(PROGRESS_SECONDS) + 5)
            return not self.writes()

        self._cluster.until(rests, 120, "the operator rests")


@pytest.mark.timeout(SECONDS + 300)
def test_resyncs_restarts_and_changes_of_leader_write_nothing(
    cluster: Cluster,
    pipelines: Pipelines,
    operators: Callable[..., Operator],
    report: Callable[[str], None],
) -> None:
    for item in (*SETTLING, PENDING):
        pipelines.create(item)
    steady = Steady(cluster, pipelines, operators)
    for item in SETTLING:
        name = item["metadata"]["name"]
        cluster.until(lambda name=name: pipelines.settled(name), 60, f"{name} has settled")  # type: ignore[misc]
    cluster.until(lambda: pipelines.condition("pending", "Schedulable")["status"] == "False", 60, "pods are pending")
    steady.until_it_rests()

    steady.begin()
    before = steady.first.metric("controller_runtime_reconcile_total", result="success")
    steady.until_resyncs(round(SECONDS))
    reconciled = steady.first.metric("controller_runtime_reconcile_total", result="success") - before
    assert steady.writes() == []
    assert reconciled >= (len(SETTLING) + 1) * (round(SECONDS) - 2)
    report(f"{steady.resyncs()} resyncs, {reconciled:.0f} reconciles of {len(SETTLING) + 1} pipelines, no write")

    steady.begin()
    steady.first.kill()
    steady.until_leads(steady.second)
    steady.first.start()
    steady.until_resyncs(5)
    assert steady.writes() == []

    steady.begin()
    assert steady.second.stop() == 0
    steady.until_leads(steady.first)
    steady.until_resyncs(5)
    assert steady.writes() == []
