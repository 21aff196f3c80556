"""What OpenShift puts before pods, and pipelines that pass it: by one field, or by the platform's defaults.

The test plays its admission by security context constraints as
https://github.com/openshift/apiserver-library-go/tree/master/pkg/securitycontextconstraints and the constraint
restricted-v2 have it: a user of the namespace's range is given to whoever names none, and whoever names another, or
asks for more than restricted-v2 lets, is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from cluster.user import DIGITS, ROLES, User
from testbed.controlplane.admission import Patch, changing, refusing, until_acts
from testbed.controlplane.client import JSON, Refused
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator

FIRST: Final = 1000680000
SIZE: Final = 10000
VOLUMES: Final = (
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
)

ALL_CONTAINERS: Final = "(object.spec.containers + (has(object.spec.initContainers) ? object.spec.initContainers : []))"


def in_range(field: str) -> str:
    return f"(!has({field}) || ({field} >= {FIRST} && {field} < {FIRST + SIZE}))"


def rule(expression: str, message: str) -> dict[str, str]:
    return {
        "expression": expression,
        "message": f"unable to validate against any security context constraint: {message}",
    }


RESTRICTED_V2: Final = [
    rule(
        f"!has(object.spec.securityContext) || ({in_range('object.spec.securityContext.runAsUser')} && "
        f"{in_range('object.spec.securityContext.fsGroup')})",
        f"spec.securityContext.runAsUser, fsGroup: must be in the ranges: [{FIRST}, {FIRST + SIZE - 1}]",
    ),
    rule(
        f"{ALL_CONTAINERS}.all(c, !has(c.securityContext) || {in_range('c.securityContext.runAsUser')})",
        f"containers[0].runAsUser: must be in the ranges: [{FIRST}, {FIRST + SIZE - 1}]",
    ),
    rule(
        f"{ALL_CONTAINERS}.all(c, has(c.securityContext) && has(c.securityContext.allowPrivilegeEscalation) && "
        "!c.securityContext.allowPrivilegeEscalation && (!has(c.securityContext.privileged) || "
        "!c.securityContext.privileged) && has(c.securityContext.capabilities) && "
        "has(c.securityContext.capabilities.drop) && 'ALL' in c.securityContext.capabilities.drop && "
        "(!has(c.securityContext.capabilities.add) || "
        "c.securityContext.capabilities.add.all(name, name == 'NET_BIND_SERVICE')))",
        "containers[0]: privileged, allowPrivilegeEscalation and capabilities are not allowed",
    ),
    rule(
        "!has(object.spec.securityContext) || !has(object.spec.securityContext.seccompProfile) || "
        "object.spec.securityContext.seccompProfile.type == 'RuntimeDefault'",
        "seccomp: only runtime/default is allowed",
    ),
    rule("!has(object.spec.hostNetwork) || !object.spec.hostNetwork", "hostNetwork is not allowed"),
    rule(
        "!has(object.spec.volumes) || object.spec.volumes.all(v, "
        + " || ".join(f"has(v.{kind})" for kind in VOLUMES)
        + ")",
        "spec.volumes: this kind of volume is not allowed",
    ),
]


def as_restricted_v2(pod: JSON) -> Patch:
    """What the constraint fills in where nothing is said."""
    context = {
        "runAsUser": FIRST,
        "fsGroup": FIRST,
        "seccompProfile": {"type": "RuntimeDefault"},
        "seLinuxOptions": {"level": "s0:c26,c5"},
        **pod["spec"].get("securityContext", {}),
    }
    patch: Patch = [{"op": "add", "path": "/spec/securityContext", "value": context}]
    for index, container in enumerate(pod["spec"]["containers"]):
        own = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            **container.get("securityContext", {}),
        }
        own.setdefault("runAsUser", context["runAsUser"])
        patch.append({"op": "add", "path": f"/spec/containers/{index}/securityContext", "value": own})
    return patch


@pytest.fixture
def openshift(cluster: Cluster, namespace: str) -> Iterator[None]:
    """PodSecurity restricted, too, as OpenShift labels its namespaces."""
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    cluster.api.patch(f"/api/v1/namespaces/{namespace}", labels)
    with (
        changing(cluster, namespace, "scc", as_restricted_v2, group="", resource="pods"),
        refusing(cluster, namespace, "scc", RESTRICTED_V2, resources=["pods"]),
    ):
        path = f"/api/v1/namespaces/{namespace}/pods"
        plain = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "a", "image": "a"}]}}
        plain["spec"]["securityContext"] = {"runAsNonRoot": True}
        until_acts(cluster, path, plain, lambda answer: f"'runAsUser': {FIRST}" in str(answer))
        fixed = {**plain, "spec": {**plain["spec"], "securityContext": {"runAsNonRoot": True, "runAsUser": 65532}}}
        until_acts(
            cluster, path, fixed, lambda answer: isinstance(answer, Refused) and "must be in the r" in str(answer)
        )
        yield


@pytest.fixture
def user(cluster: Cluster, namespace: str) -> User:
    return User(cluster, namespace, "painter")


def users(user: User) -> set[int]:
    """Of all its containers."""
    return {
        container["securityContext"]["runAsUser"]
        for role in ROLES
        for pod in user.pods(role)
        for container in pod["spec"]["containers"]
    }


def test_a_fixed_user_is_refused_there_and_the_status_says_so(
    openshift: None, user: User, operators: Callable[..., Operator]
) -> None:
    operators()
    user.make()
    told = user.until_condition(
        "Schedulable", "False", "PodsRefused", "security context constraint", seconds=60
    ).message
    assert "must be in the ranges" in told
    # As a person mends it.
    user.edit(securityProfile="OpenShift")
    user.until_ready(120)
    assert users(user) == {FIRST}


def test_every_pod_of_the_profile_is_admitted_and_runs_as_the_user_that_it_is_given(
    openshift: None, user: User, operators: Callable[..., Operator]
) -> None:
    operators()
    user.make(securityProfile="OpenShift", roles={"denoiser": {"replicas": 2}})
    user.until_ready(60)
    assert users(user) == {FIRST}
    assert len(user.pods("denoiser")) == 2


def test_the_platform_says_it_for_all_pipelines(
    openshift: None, user: User, operators: Callable[..., Operator], tmp_path: Path
) -> None:
    file = tmp_path / "platform.yaml"
    file.write_text("securityProfile: OpenShift")
    operators(f"--platform-file={file}")
    user.make()
    user.until_ready(60)
    assert users(user) == {FIRST}


def test_custom_is_for_whoever_has_another_constraint(user: User, operators: Callable[..., Operator]) -> None:
    operators()
    context = {"runAsUser": 0, "capabilities": {"add": ["IPC_LOCK"]}}
    template = {"spec": {"containers": [{"name": "main", "securityContext": context}]}}
    user.make(DIGITS, securityProfile="Custom", roles={"denoiser": {"podTemplate": template}})
    user.until_ready(60)
    (denoiser,) = user.pods("denoiser")
    assert denoiser["spec"]["containers"][0]["securityContext"] == context
    assert not denoiser["spec"].get("securityContext")
    (encoder,) = user.pods("encoder")
    assert "securityContext" not in encoder["spec"]["containers"][0]
