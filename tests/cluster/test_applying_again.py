"""What GitOps does all day: the same manifests again. They change nothing, differ in nothing, make nobody write."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import pytest

from cluster.test_nulls import FILES, FORMS
from cluster.user import User
from diffusion_operator.reconcile.publish import PROGRESS_SECONDS
from testbed.controlplane.audit import Entry
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator
from testbed.controlplane.pipelines import Pipelines, pipeline

UNQUOTED: Final = """
apiVersion: diffusion-operator.dev/v1alpha1
kind: DiffusionPipeline
metadata: {name: unquoted}
spec:
  model: {source: Bundled}
  image:
  imagePullSecrets:
  roles:
    encoder: {threads: 1, resources: {requests: {cpu: 0.5, memory: 1e9}, limits: {cpu: 2, memory: 2000000000}}}
    denoiser:
      resources: {requests: {cpu: .25}, limits: {cpu: 1.0}}
      podTemplate:
        spec:
          containers:
          - {name: main, env: , livenessProbe: }
          - {name: logs, image: "example/logs:1", resources: {requests: {cpu: 0.1}, limits: {cpu: 1.5, memory: }}}
    decoder: {nodeSelector: , affinity: , resources: {requests: , limits: {memory: 1000000000}}}
    router:
  transport: {backend: tcp, poolSize: 67108864}
"""
"""Numbers and nothing, as templates leave them."""


class Manifests:
    """All of them, as applied in one of the two forms."""

    def __init__(self, user: User, *form: str) -> None:
        self._user = user
        self._form = form
        texts = [*(file.read_text() for file in FILES), UNQUOTED]
        self._text = re.sub(r"^  namespace: .*$", "", "\n---\n".join(texts), flags=re.MULTILINE)

    def apply(self) -> None:
        self._run("apply")

    def show_no_difference(self) -> None:
        self._run("diff")  # which fails if it shows something

    def _run(self, verb: str) -> None:
        self._user.kubectl(verb, *self._form, "-f", "-", stdin=self._text)

    def versions(self) -> dict[str, tuple[int, str]]:
        found = self._user.api.items(self._user.pipelines)
        return {
            item["metadata"]["name"]: (item["metadata"]["generation"], item["metadata"]["resourceVersion"])
            for item in found
        }


@FORMS
@pytest.mark.timeout(240)
def test_the_same_manifests_again_change_nothing(
    form: tuple[str, ...],
    cluster: Cluster,
    namespace: str,
    operators: Callable[..., Operator],
    report: Callable[[str], None],
) -> None:
    manifests = Manifests(User(cluster, namespace, "unquoted"), *form)
    manifests.apply()
    operators("--resync-seconds=1", "--router-address=127.0.0.1:1")
    operator = f"operator:{namespace}"
    mark = cluster.audit.mark()

    def resyncs(since: int) -> int:
        return len(cluster.audit.entries(since, user=operator, verb="list", resource="diffusionpipelines"))

    def written(since: int) -> list[Entry]:
        """But for attempts at a PodMonitor, whose API is looked for at each resync."""
        found = cluster.audit.writes(since, user=operator)
        return [entry for entry in found if (entry.resource, entry.code) != ("podmonitors", 404)]

    def rests() -> bool:
        """Nothing was written for longer than mere counts may wait to be told."""
        nonlocal mark
        if written(mark):
            mark = cluster.audit.mark()
        return resyncs(mark) > round(PROGRESS_SECONDS) + 5

    cluster.until(rests, 120, "the operator rests", longest_pause=1)
    before = manifests.versions()
    assert len(before) == len(FILES) + 1
    assert {generation for generation, _ in before.values()} == {1}
    mark = cluster.audit.mark()
    manifests.show_no_difference()
    manifests.apply()
    manifests.show_no_difference()
    manifests.apply()
    assert manifests.versions() == before
    cluster.until(lambda: resyncs(mark) > 5, 60, "five resyncs", longest_pause=1)
    assert written(mark) == []
    report(f"{len(before)} pipelines")


def test_a_request_above_its_limit_is_told_as_a_fault_that_stays(
    pipelines: Pipelines, operator: Operator, cluster: Cluster
) -> None:
    # Rules of CEL do not see quantities, since they may be numbers.
    pipelines.create(pipeline(roles={"decoder": {"resources": {"requests": {"cpu": 0.5}, "limits": {"cpu": "250m"}}}}))
    cluster.until(lambda: pipelines.condition("digits", "Stalled")["status"] == "True", 30, "it is told")
    told = pipelines.condition("digits", "Reconciled")
    assert (told["status"], told["reason"]) == ("False", "InvalidSpec")
    assert "spec.roles.decoder.resources: a request must not be above the limit of the same name" in told["message"]
