"""Where the model comes from, where it is kept, and what of a pipeline outlives its pods."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_operator.render import render
from testbed.examples import resource
from unit.render.children import (
    Child,
    environment,
    main_container,
    pipeline,
    pod_spec,
    shared_environment,
    stateful_sets,
    workers,
)

HUB = {"source": "Hub", "id": "a/b"}


def volume(stateful_set: Child, path: str) -> tuple[Child, Child] | None:
    """The volume that the container main has at a path, and its mount."""
    for mount in main_container(stateful_set)["volumeMounts"]:
        if mount["mountPath"] == path:
            volumes = {item["name"]: item for item in pod_spec(stateful_set)["volumes"]}
            return volumes.get(mount["name"], {}), mount
    return None


def found_in(model: Child) -> tuple[str, str]:
    shared = shared_environment(render(pipeline(model=model)))
    return shared["DIFFUSION_WORKER_MODEL_SOURCE"], shared["DIFFUSION_WORKER_MODEL_ID"]


def test_a_model_in_a_claim_is_a_folder_mounted_read_only() -> None:
    model = {"source": "PersistentVolumeClaim", "id": "flux", "claimName": "models"}
    assert found_in(model) == ("Path", "/model")
    assert found_in({**model, "subPath": "flux/dev"}) == ("Path", "/model/flux/dev")
    children = render(pipeline(model=model))
    for worker in workers(children):
        found = volume(worker, "/model")
        assert found is not None
        assert found[0]["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
        assert found[1]["readOnly"] is True
    assert environment(stateful_sets(children)["router"])["DIFFUSION_ROUTER_MODEL_ID"] == "flux"


def test_a_model_in_an_image_is_a_folder_too() -> None:
    model = {"source": "Image", "id": "registry.example/flux:1"}
    assert found_in({**model, "subPath": "flux"}) == ("Path", "/model/flux")
    for worker in workers(render(pipeline(model=model))):
        found = volume(worker, "/model")
        assert found is not None
        assert found[0]["image"] == {"reference": "registry.example/flux:1"}


def test_only_models_that_are_downloaded_have_a_folder_for_it() -> None:
    for model, path in ((HUB, "/models"), ({"source": "Path", "id": "/models/a"}, None), ({}, None)):
        for worker in workers(render(pipeline(model=model))):
            assert (volume(worker, "/models") is not None) == (path is not None)
            assert environment(worker)["HF_HOME"] == (path or "/tmp/huggingface")


def test_a_folder_of_the_pod_may_be_limited() -> None:
    for worker in workers(render(pipeline(model={**HUB, "cache": {"size": "5Gi", "mountPath": "/c"}}))):
        found = volume(worker, "/c")
        assert found is not None
        assert found[0]["emptyDir"] == {"sizeLimit": "5Gi"}
        assert environment(worker)["HF_HOME"] == "/c"


def test_a_shared_cache_is_a_claim_that_is_there_already() -> None:
    cache = {"type": "PersistentVolumeClaim", "claimName": "c"}
    for worker in workers(render(pipeline(model={**HUB, "cache": cache}))):
        found = volume(worker, "/models")
        assert found is not None
        assert found[0]["persistentVolumeClaim"] == {"claimName": "c"}
        assert "HF_HUB_OFFLINE" not in environment(worker)
    closed = {**cache, "readOnly": True, "downloadPolicy": "Never"}
    for worker in workers(render(pipeline(model={**HUB, "cache": closed}))):
        found = volume(worker, "/models")
        assert found is not None
        assert found[0]["persistentVolumeClaim"]["readOnly"] is True
        assert found[1]["readOnly"] is True
        assert environment(worker)["HF_HUB_OFFLINE"] == "1"


def test_a_cache_of_each_pods_own_is_a_claim_of_its_stateful_set() -> None:
    roles: Child = {"denoiser": {"cacheRetention": {"whenScaled": "Delete", "whenDeleted": "Retain"}}}
    cache = {"type": "PerPod", "storageClassName": "fast"}
    sets = stateful_sets(render(pipeline(model={**HUB, "cache": cache}, roles=roles)))
    for role in ("encoder", "denoiser", "decoder"):
        (claim,) = sets[role]["spec"]["volumeClaimTemplates"]
        assert claim["spec"]["resources"]["requests"]["storage"] == "50Gi"
        assert claim["spec"]["storageClassName"] == "fast"
        assert volume(sets[role], "/models") == ({}, {"name": claim["metadata"]["name"], "mountPath": "/models"})
    assert "volumeClaimTemplates" not in sets["router"]["spec"]
    policies = {role: sets[role]["spec"]["persistentVolumeClaimRetentionPolicy"] for role in ("encoder", "denoiser")}
    assert policies == {
        "encoder": {"whenScaled": "Retain", "whenDeleted": "Delete"},
        "denoiser": {"whenScaled": "Delete", "whenDeleted": "Retain"},
    }


def test_the_hubs_token_is_read_by_pods_alone() -> None:
    for worker in workers(render(pipeline(model={**HUB, "tokenSecretRef": {"name": "hub"}}))):
        assert environment(worker)["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}


def test_the_routers_claim_is_kept_when_the_pipeline_goes() -> None:
    router = stateful_sets(render(pipeline(router={"storage": {"type": "PersistentVolumeClaim"}})))["router"]
    (claim,) = router["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"
    assert claim["spec"]["resources"]["requests"]["storage"] == "10Gi"
    assert "storageClassName" not in claim["spec"]
    kept = {"whenScaled": "Retain", "whenDeleted": "Retain"}
    assert router["spec"]["persistentVolumeClaimRetentionPolicy"] == kept
    assert volume(router, environment(router)["DIFFUSION_ROUTER_DATA_DIR"]) == (
        {},
        {"name": "data", "mountPath": "/var/lib/diffusion-router"},
    )


def test_the_routers_data_is_a_folder_of_its_pod_otherwise() -> None:
    router = stateful_sets(render(pipeline(router={"storage": {"size": "2Gi"}})))["router"]
    assert "volumeClaimTemplates" not in router["spec"]
    found = volume(router, "/var/lib/diffusion-router")
    assert found is not None
    assert found[0]["emptyDir"] == {"sizeLimit": "2Gi"}


@pytest.mark.parametrize(("size", "wanted"), [(None, "1Gi"), ("8Gi", "8Gi"), ("0", None), (0, None), ("0Mi", None)])
def test_workers_have_shared_memory_of_the_size_that_is_asked_for(size: Any, wanted: str | None) -> None:
    given = pipeline() if size is None else pipeline(sharedMemorySize=size)
    for role, stateful_set in stateful_sets(render(given)).items():
        found = volume(stateful_set, "/dev/shm")
        if wanted is None or role == "router":
            assert found is None
        else:
            assert found is not None
            assert found[0]["emptyDir"] == {"medium": "Memory", "sizeLimit": wanted}


def test_workers_that_share_memory_share_their_nodes_and_are_placed_on_one() -> None:
    given = resource("digits-shm")["spec"]["transport"]
    for role, stateful_set in stateful_sets(render(pipeline(transport={"protocol": "auto", **given}))).items():
        found = volume(stateful_set, "/dev/shm")
        assert (found is not None) == ("affinity" in pod_spec(stateful_set)) == (role != "router")
        if found is not None:
            assert found[0]["hostPath"] == {"path": "/dev/shm", "type": "Directory"}
            assert found[1]["subPath"] == "diffusion-operator.default.digits"
            assert environment(stateful_set)["DIFFUSION_WORKER_SHM_KEY"] == "default.digits"
