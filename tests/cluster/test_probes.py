"""/healthz and /readyz tell of streams that bring nothing, of reconciles that hang, and of a start that is not done.

What a process would wait minutes for, it waits seconds for here: it is the same process but for these constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import HastyOperator
from testbed.controlplane.pipelines import Pipelines, pipeline
from testbed.controlplane.proxy import Hang, Proxy, matching

HASTE: Final = {"cluster.watching.LAG_SECONDS": 4.0, "health.STALLED_SECONDS": 4.0}


class ProbedOperator(HastyOperator):
    def says(self, path: str) -> tuple[int, str]:
        answer = httpx.get(self.url + path, trust_env=False)
        return answer.status_code, answer.text


@pytest.fixture
def operator(proxy: Proxy, namespace: str, tmp_path: Path) -> Iterator[ProbedOperator]:
    flags = (f"--watch-namespaces={namespace}", "--router-address=127.0.0.1:1", "--resync-seconds=1")
    with ProbedOperator(proxy.kubeconfig, *flags, constants=HASTE, log=tmp_path / "operator.log") as running:
        yield running


@pytest.mark.parametrize("resource", ["diffusionpipelines", "diffusionpipelinerolescalers"])
def test_a_stream_of_kopfs_that_brings_nothing_more_is_told(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: ProbedOperator, resource: str
) -> None:
    pipelines.create(pipeline(roles={"encoder": {}, "denoiser": {"scaling": {"mode": "External"}}, "decoder": {}}))
    cluster.until(lambda: pipelines.settled("digits"), 60, "the pipeline has settled")
    assert operator.says("/healthz") == (200, "ok\n")
    proxy.rule(Hang(), matching("GET", f"/{resource}$", watch=True), times=None)
    proxy.cut_watches()
    # Resyncs go on to find what happens.
    pipelines.edit("digits", roles={"encoder": {"replicas": 2}})
    scaler = pipelines.path("DiffusionPipelineRoleScaler", "digits-denoiser")
    pipelines.api.patch(scaler, {"spec": {"replicas": 3}})
    cluster.until(lambda: pipelines.replicas("digits-encoder") == 2, 30, "the edit is made so")
    cluster.until(lambda: pipelines.replicas("digits-denoiser") == 3, 30, "the scaler's word is")
    cluster.until(lambda: operator.says("/healthz")[0] == 503, 30, "it is told")
    kind = {"diffusionpipelines": "DiffusionPipeline"}.get(resource, "DiffusionPipelineRoleScaler")
    assert operator.says("/healthz") == (503, f"the watch of {kind} brings nothing any more\n")
    proxy.reset()
    cluster.until(lambda: operator.answers("/healthz"), 30, "the stream brings all that it owes")


def test_a_reconcile_that_hangs_is_told(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: ProbedOperator
) -> None:
    assert operator.answers("/healthz")
    hanging = proxy.rule(Hang(), matching("PATCH", "/statefulsets/"))
    pipelines.create(pipeline())
    hanging.wait(30)
    cluster.until(lambda: operator.says("/healthz")[0] == 503, 20, "it is told")
    assert operator.says("/healthz")[1].startswith("a pipeline has waited for ")
    proxy.reset()
    cluster.until(lambda: operator.answers("/healthz"), 30, "it is over")
    cluster.until(lambda: pipelines.settled("digits"), 60, "the pipeline has settled")


@pytest.mark.parametrize("resource", ["diffusionpipelines", "statefulsets", "pods"])
def test_before_everything_was_listed_it_is_alive_and_not_ready(
    cluster: Cluster, proxy: Proxy, pipelines: Pipelines, operator: ProbedOperator, resource: str
) -> None:
    operator.kill()
    pipelines.create(pipeline())
    hanging = proxy.rule(Hang(), matching("GET", f"/{resource}$", watch=False))
    operator.start(ready_within=None)
    hanging.wait(30)
    assert operator.says("/healthz") == (200, "ok\n")
    status, text = operator.says("/readyz")
    assert status == 503
    assert text.startswith("waiting for ")
    # What is not known to be there would be made anew.
    assert not pipelines.api.exists(pipelines.path("StatefulSet", "digits-router"))
    proxy.reset()
    operator.wait_ready()
    cluster.until(lambda: pipelines.applied("digits"), 60, "the pipeline is made")
