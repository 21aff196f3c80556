"""As whom pods run: the same everywhere, as the cluster says, or as the pod template says."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_operator.api import InvalidResourceError
from diffusion_operator.render import render
from diffusion_operator.render.generation import generation
from unit.render.children import main_container, pipeline, pod_spec, stateful_sets

USER = {"runAsUser", "runAsGroup", "fsGroup"}


def contexts(**sections: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Of each role's pods, and of their container main."""
    made = stateful_sets(render(pipeline(**sections)))
    return [
        (pod_spec(one).get("securityContext", {}), main_container(one).get("securityContext", {}))
        for one in made.values()
    ]


def test_left_out_it_is_restricted() -> None:
    assert contexts() == contexts(securityProfile="Restricted")
    assert all(pod["runAsUser"] == 65532 for pod, _ in contexts())


def test_on_openshift_the_cluster_says_who_the_user_is_and_all_else_stays() -> None:
    for (pod, main), (before, main_before) in zip(contexts(securityProfile="OpenShift"), contexts(), strict=True):
        assert pod == {key: value for key, value in before.items() if key not in USER}
        assert main == main_before
        assert not USER & main.keys()


def test_custom_is_what_the_pod_template_says_and_nothing_else() -> None:
    assert contexts(securityProfile="Custom") == [({}, {})] * 4
    template = {
        "spec": {
            "securityContext": {"runAsUser": 7},
            "containers": [{"name": "main", "securityContext": {"privileged": True}}],
        }
    }
    made = stateful_sets(
        render(
            pipeline(
                securityProfile="Custom",
                roles={"denoiser": {"podTemplate": template}},
                transport={"protocol": "rdma", "rdma": {"resourceName": "rdma/hca"}},
            )
        )
    )
    assert pod_spec(made["denoiser"])["securityContext"] == {"runAsUser": 7}
    assert main_container(made["denoiser"])["securityContext"] == {"privileged": True}
    assert "securityContext" not in main_container(made["encoder"])


def test_it_is_no_part_of_the_generation() -> None:
    assert generation(pipeline(), "w") == generation(pipeline(securityProfile="OpenShift"), "w")


@pytest.mark.parametrize(
    "transport",
    [
        {"backend": "shm", "protocol": "auto"},
        {"protocol": "auto", "rdma": {"resourceName": "rdma/hca"}},
        {"protocol": "auto", "rdma": {"ipcLock": "Always"}},
        {"protocol": "auto", "rdma": {"hostNetwork": True, "ipcLock": "Never"}},
    ],
    ids=str,
)
def test_what_restricted_v2_never_admits_is_refused(transport: dict[str, Any]) -> None:
    policy = {"mode": "None"}
    with pytest.raises(
        InvalidResourceError, match=r"set transport\.rdma\.ipcLock to Never, or securityProfile to Custom"
    ):
        pipeline(securityProfile="OpenShift", transport=transport, networkPolicy=policy)
    pipeline(securityProfile="Custom", transport=transport, networkPolicy=policy)


def test_rdma_without_locking_is_for_restricted_v2_too() -> None:
    rdma = {"protocol": "rdma", "rdma": {"resourceName": "rdma/hca", "ipcLock": "Never"}}
    assert all("runAsUser" not in main for _, main in contexts(securityProfile="OpenShift", transport=rdma))
