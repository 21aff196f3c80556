"""RDMA by contract: pods get what the resource says, and nothing where it says nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from diffusion_operator.render import names, render
from diffusion_operator.render.generation import generation, variables
from unit.render.children import (
    Child,
    environment,
    main_container,
    of_kind,
    pipeline,
    pod_spec,
    rdma_pipeline,
    stateful_sets,
    workers,
)

HCA = {"resourceName": "rdma/hca"}


def lock(stateful_set: Child) -> bool:
    return "IPC_LOCK" in main_container(stateful_set)["securityContext"]["capabilities"].get("add", [])


@pytest.mark.parametrize("protocol", ["auto", "tcp"])
def test_without_a_word_of_rdma_pods_are_those_of_tcp(protocol: str) -> None:
    for worker in workers(render(pipeline(transport={"protocol": protocol}))):
        assert "resources" not in main_container(worker)
        assert "hostNetwork" not in pod_spec(worker)
        assert not lock(worker)


def test_each_worker_and_no_router_requests_the_devices() -> None:
    devices = {"rdma/hca": "2"}
    for role, found in stateful_sets(render(rdma_pipeline({**HCA, "count": 2}))).items():
        resources = main_container(found)["resources"]
        if role == "router":
            assert "rdma/hca" not in {*resources["requests"], *resources["limits"]}
        else:
            assert resources == {"requests": devices, "limits": devices}


def test_adapters_that_are_offered_apart_are_each_requested() -> None:
    rails = {"example.com/rail-a": "2", "example.com/rail-b": "2"}
    for worker in workers(render(rdma_pipeline({"resourceNames": [*rails], "count": 2}))):
        assert main_container(worker)["resources"] == {"requests": rails, "limits": rails}
        assert lock(worker)


def test_a_claim_takes_the_place_of_a_devices_name_and_a_roles_own_takes_the_claims() -> None:
    own = {"name": "rdma", "resourceClaimTemplateName": "gpu-beside-its-adapter"}
    also = {"name": "scratch", "resourceClaimName": "shared"}
    roles = {"denoiser": {"device": "cuda", "resourceClaims": [own, also]}}
    sets = stateful_sets(render(rdma_pipeline({"resourceClaimTemplateName": "adapter"}, roles=roles)))
    adapter = {"name": "rdma", "resourceClaimTemplateName": "adapter"}
    for role, claims in {"encoder": [adapter], "denoiser": [own, also], "decoder": [adapter]}.items():
        assert pod_spec(sets[role])["resourceClaims"] == claims
        names = [{"name": claim["name"]} for claim in claims]
        assert main_container(sets[role])["resources"] == {"claims": names}
        assert lock(sets[role])
    assert environment(sets["denoiser"])["DIFFUSION_WORKER_DEVICE"] == "cuda"
    assert "resourceClaims" not in pod_spec(sets["router"])
    assert "claims" not in main_container(sets["router"])["resources"]


def test_a_role_may_claim_what_has_nothing_to_do_with_the_transport() -> None:
    gpu = {"name": "gpu", "resourceClaimTemplateName": "large"}
    sets = stateful_sets(render(pipeline(roles={"denoiser": {"device": "cuda", "resourceClaims": [gpu]}})))
    assert pod_spec(sets["denoiser"])["resourceClaims"] == [gpu]
    assert not lock(sets["denoiser"])
    assert "resourceClaims" not in pod_spec(sets["encoder"])


BY_EDGE = {
    "protocol": "rdma",
    "fallback": "Deny",
    "edges": {"encoderToDenoiser": {"protocol": "tcp"}},
    "rdma": {**HCA, "networks": ["roce"], "resourceName": "rdma/hca"},
}


def test_a_role_without_an_edge_that_may_be_rdma_asks_for_no_device() -> None:
    children = render(pipeline(transport=BY_EDGE))
    sets = stateful_sets(children)
    for role, has in {"encoder": False, "denoiser": True, "decoder": True}.items():
        assert ("rdma/hca" in main_container(sets[role]).get("resources", {}).get("limits", {})) is has
        assert lock(sets[role]) is has
        annotations = sets[role]["spec"]["template"]["metadata"].get("annotations", {})
        assert ("k8s.v1.cni.cncf.io/networks" in annotations) is has
    (config_map,) = of_kind(children, "ConfigMap").values()
    assert config_map["data"]["DIFFUSION_WORKER_PROTOCOL"] == "rdma"
    assert config_map["data"]["DIFFUSION_WORKER_ENCODER_TO_DENOISER"] == "tcp"
    assert "DIFFUSION_WORKER_DENOISER_TO_DECODER" not in config_map["data"]


def test_a_role_that_was_told_to_claims_or_locks_all_the_same() -> None:
    always = {**BY_EDGE, "rdma": {"resourceClaimTemplateName": "adapter", "ipcLock": "Always"}}
    sets = stateful_sets(render(pipeline(transport=always)))
    assert lock(sets["encoder"])
    assert ["resourceClaims" in pod_spec(sets[role]) for role in ("encoder", "denoiser", "decoder")] == [
        False,
        True,
        True,
    ]


def test_another_edge_makes_another_generation_and_none_leaves_it_as_it_was() -> None:
    whole = {**BY_EDGE, "edges": None}
    found = {generation(pipeline(transport=each), "w") for each in (BY_EDGE, whole)}
    assert len(found) == 2
    assert "DIFFUSION_WORKER_ENCODER_TO_DENOISER" not in variables(pipeline(transport=whole))


def test_a_role_may_name_another_number_of_devices_and_gets_gpus_beside_them() -> None:
    own = {"requests": {"rdma/hca": 4}, "limits": {"rdma/hca": 4}}
    sets = stateful_sets(render(rdma_pipeline(HCA, roles={"denoiser": {"gpus": 1, "resources": own}})))
    both = {"rdma/hca": "4", "nvidia.com/gpu": "1"}
    assert main_container(sets["denoiser"])["resources"] == {"requests": both, "limits": both}
    assert main_container(sets["encoder"])["resources"]["limits"] == {"rdma/hca": "1"}


@pytest.mark.parametrize(
    ("rdma", "locked"),
    [
        (HCA, True),
        ({"hostNetwork": True}, True),
        ({"resourceClaimTemplateName": "adapter"}, True),
        ({"resourceNames": []}, False),
        ({}, False),
        ({"ipcLock": "Always"}, True),
        ({**HCA, "ipcLock": "Never"}, False),
    ],
)
def test_memory_may_be_locked_where_there_are_devices_unless_told_otherwise(rdma: Child, locked: bool) -> None:
    for worker in workers(render(rdma_pipeline(rdma, networkPolicy={"mode": "None"}))):
        assert lock(worker) is locked


def test_a_worker_that_locks_memory_is_root_with_one_capability_and_its_pod_is_not() -> None:
    for worker in workers(render(rdma_pipeline(HCA))):
        context = main_container(worker)["securityContext"]
        assert context["capabilities"] == {"add": ["IPC_LOCK"], "drop": ["ALL"]}
        assert (context["runAsUser"], context["runAsNonRoot"]) == (0, False)
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert pod_spec(worker)["securityContext"]["runAsNonRoot"] is True


def test_the_users_pod_template_decides_about_the_user() -> None:
    template = {"spec": {"containers": [{"name": "main", "securityContext": {"runAsUser": 7, "runAsNonRoot": True}}]}}
    sets = stateful_sets(render(rdma_pipeline(HCA, roles={"denoiser": {"podTemplate": template}})))
    context = main_container(sets["denoiser"])["securityContext"]
    assert (context["runAsUser"], context["runAsNonRoot"]) == (7, True)
    assert context["capabilities"]["add"] == ["IPC_LOCK"]


def test_devices_and_gid_index_reach_the_workers() -> None:
    children = render(rdma_pipeline({**HCA, "devices": ["mlx5_0", "mlx5_1"], "gidIndex": 0}))
    for worker in workers(children):
        assert environment(worker)["DIFFUSION_WORKER_RDMA_DEVICES"] == "mlx5_0,mlx5_1"
        assert environment(worker)["MC_GID_INDEX"] == "0"
    for worker in workers(render(rdma_pipeline(HCA))):
        assert not {"DIFFUSION_WORKER_RDMA_DEVICES", "MC_GID_INDEX"} & environment(worker).keys()


def test_networks_are_an_annotation_for_multus() -> None:
    for role, found in stateful_sets(render(rdma_pipeline({**HCA, "networks": ["a", "fabrics/b"]}))).items():
        annotations = found["spec"]["template"]["metadata"]["annotations"]
        assert annotations.get("k8s.v1.cni.cncf.io/networks") == (None if role == "router" else "a,fabrics/b")


def test_networks_in_the_longer_form_are_that_annotation_as_json() -> None:
    selections = [
        {"name": "rail-a", "interface": "rdma0"},
        {"name": "rail-b", "namespace": "fabrics", "default-route": ["10.0.0.1"], "cni-args": {"mtu": 9000}},
    ]
    for role, found in stateful_sets(render(rdma_pipeline({**HCA, "networkSelections": selections}))).items():
        text = found["spec"]["template"]["metadata"]["annotations"].get("k8s.v1.cni.cncf.io/networks")
        assert (text is None) if role == "router" else json.loads(text) == selections


def test_workers_on_the_host_network_resolve_names_and_keep_apart() -> None:
    children = render(rdma_pipeline({"hostNetwork": True}, networkPolicy={"mode": "None"}))
    for worker in workers(children):
        spec = pod_spec(worker)
        assert (spec["hostNetwork"], spec["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
        (term,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == "kubernetes.io/hostname"
        for other in workers(children):
            assert selects(term["labelSelector"], other["spec"]["template"]["metadata"]["labels"])
    router = stateful_sets(children)["router"]
    assert "hostNetwork" not in pod_spec(router)
    assert not selects(term["labelSelector"], router["spec"]["template"]["metadata"]["labels"])


def listens_on(child: Child) -> set[int]:
    """What the process of a worker pod may listen on, by what it is told."""
    told = environment(child)
    health = {int(told[names.PORT_VARIABLES[name]]) for name in (names.HEALTH, names.GRPC_HEALTH)}
    transfer = range(int(told[names.PORT_MIN_VARIABLE]), int(told[names.PORT_MAX_VARIABLE]) + 1)
    assert health.isdisjoint(transfer)
    return {*health, *transfer}


def test_on_the_host_network_all_that_a_worker_listens_on_is_in_its_pipelines_range() -> None:
    ranges: list[dict[str, int]] = [{"min": 15000, "max": 15063}, {"min": 15064, "max": 15999}]
    for ports in ranges:
        transport = {"rdma": {"hostNetwork": True}, "rpcPortRange": ports, "protocol": "auto"}
        children = render(pipeline(transport=transport, networkPolicy={"mode": "None"}))
        for worker in workers(children):
            assert listens_on(worker) == set(range(ports["min"], ports["max"] + 1))
            named = {port["name"]: port["containerPort"] for port in main_container(worker)["ports"]}
            assert named == {"health": ports["min"], "grpc-health": ports["min"] + 1}
            annotations = worker["spec"]["template"]["metadata"]["annotations"]
            assert annotations["prometheus.io/port"] == str(ports["min"])
            service = of_kind(children, "Service")[worker["metadata"]["name"]]
            assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == named


def test_with_an_address_of_its_own_a_worker_has_the_whole_range_for_transfers() -> None:
    for worker in workers(render(rdma_pipeline(HCA))):
        assert listens_on(worker) == {8080, 8081, *range(15000, 17001)}


def test_the_users_affinity_is_kept_beside_what_the_transport_needs() -> None:
    own = {"topologyKey": "rack", "labelSelector": {"matchLabels": {"app": "noisy"}}}
    affinity = {
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [own]},
        "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []},
    }
    given = rdma_pipeline(
        {"hostNetwork": True}, networkPolicy={"mode": "None"}, roles={"denoiser": {"affinity": affinity}}
    )
    found = pod_spec(stateful_sets(render(given))["denoiser"])["affinity"]
    terms = found["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert (terms[0], len(terms)) == (own, 2)
    assert found["nodeAffinity"] == affinity["nodeAffinity"]
    assert render(given) == render(given)


def test_the_pipeline_says_what_network_is_wanted_also_without_devices() -> None:
    (config_map,) = of_kind(render(rdma_pipeline(HCA)), "ConfigMap").values()
    assert config_map["data"]["DIFFUSION_WORKER_PROTOCOL"] == "auto"


@pytest.mark.parametrize(
    ("pool", "page", "asked"), [("64Mi", "2Mi", "64Mi"), ("65Mi", "2Mi", "66Mi"), ("1Gi", "1Gi", "1024Mi")]
)
def test_pools_of_huge_pages_are_asked_for_whole_beside_some_cpu(pool: str, page: str, asked: str) -> None:
    sets = stateful_sets(render(pipeline(transport={"poolSize": pool, "hugePages": page})))
    name = f"hugepages-{page}"
    for role in ("encoder", "denoiser", "decoder"):
        resources = main_container(sets[role])["resources"]
        assert resources == {"requests": {"cpu": "100m", name: asked}, "limits": {name: asked}}
        assert environment(sets[role])["DIFFUSION_WORKER_HUGE_PAGES"] == page
    assert name not in main_container(sets["router"])["resources"]["limits"]


def test_a_role_that_names_memory_is_given_no_cpu_for_its_huge_pages_and_may_name_their_number() -> None:
    own = {"requests": {"memory": "2Gi", "hugepages-2Mi": "1Gi"}, "limits": {"hugepages-2Mi": "1Gi"}}
    roles = {"denoiser": {"resources": own}}
    sets = stateful_sets(render(pipeline(transport={"poolSize": "64Mi", "hugePages": "2Mi"}, roles=roles)))
    assert main_container(sets["denoiser"])["resources"] == own


def selects(selector: Child, labels: dict[str, Any]) -> bool:
    return selector["matchLabels"].items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in selector["matchExpressions"]
    )
