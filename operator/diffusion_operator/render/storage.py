"""Volumes: the model and its cache, the router's data, shared memory, scratch.

The volume of a claim template is not among the pod template's volumes: the StatefulSet adds it to each pod.
"""

from __future__ import annotations

from typing import Any, Final

from diffusion_operator.api import CaBundle, Pipeline, RoleSpec
from diffusion_operator.api.quantity import parse_quantity
from diffusion_operator.render import names

Object = dict[str, Any]

SCRATCH_PATH: Final = "/tmp"
MODEL_PATH: Final = "/model"
HUB_SCRATCH_PATH: Final = f"{SCRATCH_PATH}/huggingface"
DATA_PATH: Final = "/var/lib/diffusion-router"
SHARED_MEMORY_PATH: Final = "/dev/shm"
CA_PATH: Final = "/etc/diffusion-operator/ca"
CA_FILE: Final = f"{CA_PATH}/ca.crt"


def model_source(pipeline: Pipeline) -> tuple[str, str]:
    """Where the worker finds the model: its source and id, as the worker's settings have them."""
    model = pipeline.model
    if model.source in ("PersistentVolumeClaim", "Image"):
        return "Path", f"{MODEL_PATH}/{model.sub_path}" if model.sub_path else MODEL_PATH
    return model.source, model.id


def hub_home(pipeline: Pipeline) -> str:
    """Where the hub's library keeps its files."""
    return pipeline.model.cache.path if _has_cache(pipeline) else HUB_SCRATCH_PATH


def worker_volumes(pipeline: Pipeline) -> tuple[list[Object], list[Object]]:
    """Volumes of worker pods, and their mounts in the container main."""
    volumes, mounts = [empty(names.SCRATCH_VOLUME)], [mount(names.SCRATCH_VOLUME, SCRATCH_PATH)]
    model, cache = pipeline.model, pipeline.model.cache
    if model.source == "PersistentVolumeClaim":
        volumes.append(_claim(names.MODEL_VOLUME, model.claim, read_only=True))
        mounts.append(mount(names.MODEL_VOLUME, MODEL_PATH, read_only=True))
    elif model.source == "Image":
        volumes.append({"name": names.MODEL_VOLUME, "image": {"reference": model.id}})
        mounts.append(mount(names.MODEL_VOLUME, MODEL_PATH, read_only=True))
    if _has_cache(pipeline):
        if cache.type == "PersistentVolumeClaim":
            volumes.append(_claim(names.CACHE_VOLUME, cache.claim, read_only=cache.read_only))
        elif cache.type == "EmptyDir":
            volumes.append(empty(names.CACHE_VOLUME, cache.size))
        elif cache.type == "ModelCache":
            volumes.append(node_folder(cache.node_folder, pipeline.namespace, cache.name))
        mounts.append(mount(names.CACHE_VOLUME, cache.path, read_only=cache.read_only))
    if pipeline.transport.backend == "shm":
        host_path = {"path": SHARED_MEMORY_PATH, "type": "Directory"}
        volumes.append({"name": names.SHARED_MEMORY_VOLUME, "hostPath": host_path})
        # Not all of the node's: a folder there, which the kubelet makes.
        shared = mount(names.SHARED_MEMORY_VOLUME, SHARED_MEMORY_PATH)
        mounts.append({**shared, "subPath": f"{names.OPERATOR}.{names.shm_key(pipeline)}"})
    elif pipeline.shared_memory:
        in_memory = {"medium": "Memory", "sizeLimit": pipeline.shared_memory}
        volumes.append({"name": names.SHARED_MEMORY_VOLUME, "emptyDir": in_memory})
        mounts.append(mount(names.SHARED_MEMORY_VOLUME, SHARED_MEMORY_PATH))
    return with_authorities(pipeline.ca_bundle, volumes, mounts)


def node_path(root: str, namespace: str, cache: str) -> str:
    """The folder of each node that a ModelCache fills."""
    return f"{root}/{namespace}/{cache}"


def node_folder(root: str, namespace: str, cache: str) -> Object:
    """The volume of it. Who comes first makes it, so that a worker can wait in it for what is pulled there."""
    host_path = {"path": node_path(root, namespace, cache), "type": "DirectoryOrCreate"}
    return {"name": names.CACHE_VOLUME, "hostPath": host_path}


def worker_claims(pipeline: Pipeline, spec: RoleSpec) -> Object:
    """Fields of the StatefulSet's spec: the claims of each of its pods, and what becomes of them."""
    cache, retention = pipeline.model.cache, spec.cache_retention
    if cache.type != "PerPod":
        return {}
    return {
        "volumeClaimTemplates": [_claim_template(pipeline, names.CACHE_VOLUME, cache.size, cache.storage_class)],
        "persistentVolumeClaimRetentionPolicy": {
            "whenScaled": retention.when_scaled,
            "whenDeleted": retention.when_deleted,
        },
    }


def router_volumes(pipeline: Pipeline) -> tuple[list[Object], list[Object]]:
    """Jobs and their files are kept in a volume that lives as long as the pod at least: past a crash of the process."""
    volumes = [empty(names.SCRATCH_VOLUME)]
    if pipeline.router.storage.type == "EmptyDir":
        volumes.append(empty(names.DATA_VOLUME, pipeline.router.storage.size))
    mounts = [mount(names.SCRATCH_VOLUME, SCRATCH_PATH), mount(names.DATA_VOLUME, DATA_PATH)]
    return with_authorities(pipeline.ca_bundle, volumes, mounts)


def router_claims(pipeline: Pipeline) -> Object:
    """Fields of the router's StatefulSet. Its claim is kept: it holds what clients made and paid for."""
    storage = pipeline.router.storage
    if storage.type == "EmptyDir":
        return {}
    return {
        "volumeClaimTemplates": [_claim_template(pipeline, names.DATA_VOLUME, storage.size, storage.storage_class)],
        "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Retain", "whenDeleted": "Retain"},
    }


def with_authorities(
    bundle: CaBundle | None, volumes: list[Object], mounts: list[Object]
) -> tuple[list[Object], list[Object]]:
    if bundle is not None:
        items = [{"key": bundle.key, "path": CA_FILE.rpartition("/")[2]}]
        volumes.append({"name": names.CA_VOLUME, "configMap": {"name": bundle.config_map, "items": items}})
        mounts.append(mount(names.CA_VOLUME, CA_PATH, read_only=True))
    return volumes, mounts


def _has_cache(pipeline: Pipeline) -> bool:
    """An empty folder for a model that is not downloaded would only hide what the image has there."""
    return pipeline.model.source == "Hub" or pipeline.model.cache.type != "EmptyDir"


def _claim_template(pipeline: Pipeline, name: str, size: str, storage_class: str) -> Object:
    spec: Object = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": size}},
        "volumeMode": "Filesystem",
    }
    if storage_class:
        spec["storageClassName"] = storage_class
    metadata: Object = {"name": name}
    # The StatefulSet adds those of its selector.
    if pipeline.labels:
        metadata["labels"] = dict(pipeline.labels)
    if pipeline.annotations:
        metadata["annotations"] = dict(pipeline.annotations)
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def _claim(name: str, claim: str, *, read_only: bool) -> Object:
    source: Object = {"claimName": claim}
    if read_only:
        # Here, and not only at the mount: else the kubelet would give its files to the pod's group.
        source["readOnly"] = True
    return {"name": name, "persistentVolumeClaim": source}


def empty(name: str, size: str = "") -> Object:
    return {"name": name, "emptyDir": {"sizeLimit": size} if size else {}}


def mount(name: str, path: str, *, read_only: bool = False) -> Object:
    found: Object = {"name": name, "mountPath": path}
    if read_only:
        found["readOnly"] = True
    return found


def huge_pages(pipeline: Pipeline) -> dict[str, str]:
    """As each worker requests them for its pool."""
    transport = pipeline.transport
    if not transport.huge_pages:
        return {}
    page = parse_quantity(transport.huge_pages)
    mebibytes = -(-transport.pool_size // page) * (page >> 20)
    return {f"hugepages-{transport.huge_pages}": f"{mebibytes}Mi"}
