"""Rules of the definition see no quantities, as they may be numbers. The chart's policy does, in the same words."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from cluster.chart.release import Release
from cluster.user import User
from testbed.controlplane.client import Refused
from testbed.controlplane.cluster import Cluster, ClusterError
from unit.resource.test_validation import BROKEN_QUANTITIES, MINIMAL

TAKEN = (
    "{denoiser: {resources: {requests: {cpu: 0.5, memory: 1Gi}, limits: {cpu: 500m, memory: 1073741824}}}}",
    "{denoiser: {resources: {requests: {cpu: 3}, limits: {memory: 0.5}}}}",
    "{denoiser: {gpus: 0, resources: {limits: {nvidia.com/gpu: 1}}}}",
    "{denoiser: {gpus: 1, gpuResourceName: amd.com/gpu, resources: {limits: {nvidia.com/gpu: 1}}}}",
    "{encoder: {resources: {requests: {cpu: 3}}}, decoder: {colocateWith: denoiser}}",
    "{encoder: {resources: {limits: {cpu: 0.0001}}}, router: {resources: {}}}",
)
NULLS = "{encoder: , denoiser: {gpus: , resources: }, decoder: {resources: {requests: {cpu: 1}, limits: {cpu: }}}}"


@pytest.fixture
def user(bare: Cluster, release: Release, paint: str) -> User:
    """In a namespace that the release serves."""
    release.install({"watchNamespaces": [paint]})
    user = User(bare, paint, "painter")

    def refuses() -> bool:
        try:
            user.api.post(user.pipelines, user.resource(yaml.safe_load(next(iter(BROKEN_QUANTITIES)))), dryRun="All")
        except Refused as refused:
            return refused.code == 422
        return False

    bare.until(refuses, 60, "the policy is in force")
    return user


def test_what_no_pod_could_have_is_refused_with_its_field_and_remedy_and_all_else_taken(
    user: User, release: Release, bare: Cluster
) -> None:
    for text, words in BROKEN_QUANTITIES.items():
        field, _, remedy = words.partition(": ")
        with pytest.raises(ClusterError) as caught:
            user.kubectl("apply", "-f", "-", stdin=json.dumps(user.resource(yaml.safe_load(text))))
        said = re.search(r"denied request: (spec\.roles\.\w+\.resources)\S*: (.*)", str(caught.value))
        assert said is not None, caught.value
        assert field.startswith(said[1])
        assert said[2].startswith(remedy.partition(":")[0])
    for roles in TAKEN:
        spec = yaml.safe_load(f"{MINIMAL}\nroles: {roles}")
        user.api.post(user.pipelines, user.resource(spec), dryRun="All", fieldValidation="Strict")
    # A server-side apply keeps nulls.
    nulls = user.resource(yaml.safe_load(f"{MINIMAL}\nroles: {NULLS}"))
    user.api.apply(user.path, nulls, dryRun="All", fieldValidation="Strict")


def test_an_edit_is_refused_as_well_and_nothing_is_where_the_release_does_not_serve(
    user: User, release: Release, bare: Cluster
) -> None:
    user.make(yaml.safe_load(f"{MINIMAL}\nroles: {{denoiser: {{resources: {{limits: {{cpu: 0.5}}}}}}}}"))
    with pytest.raises(Refused, match=r"spec\.roles\.denoiser\.resources: a request must not be above the limit"):
        user.edit(roles={"denoiser": {"resources": {"requests": {"cpu": 0.75}}}})
    broken = yaml.safe_load(next(iter(BROKEN_QUANTITIES)))
    with bare.namespace(f"{user.namespace}-unserved") as elsewhere:
        User(bare, elsewhere, "painter").make(broken)
    release.upgrade({"watchNamespaces": [user.namespace], "admissionPolicy": {"enabled": False}})
    user.name = "another"
    bare.until(lambda: user.api.post(user.pipelines, user.resource(broken), dryRun="All"), 60, "nothing is refused")
