"""A resource with its defaults -> typed values.

Defaults that the definition states are filled in before. A role's own are here: the definition cannot state them, since
a colocated role must be seen to have none of them set. So are those of what may be left out as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from diffusion_operator.api.isolation import isolation
from diffusion_operator.api.labels import check_names
from diffusion_operator.api.model import (
    Adapter,
    AdapterFolder,
    Cache,
    ControlNet,
    ImageEncoder,
    IPAdapter,
    Model,
    Scheduler,
    SecretKey,
)
from diffusion_operator.api.pipeline import Image, Pipeline, RouterSettings, Scheduling, Storage
from diffusion_operator.api.podtemplate import check_affinity, check_pod_template
from diffusion_operator.api.quantity import parse_quantity
from diffusion_operator.api.resources import check_resources
from diffusion_operator.api.role import (
    Batching,
    CacheRetention,
    DisruptionBudget,
    Object,
    RoleSpec,
    UpdateStrategy,
    variable,
)
from diffusion_operator.api.service import api_service
from diffusion_operator.api.transport import Rdma, Topology, Transport
from diffusion_operator.api.update import update
from diffusionpipeline.words import Role

BUNDLED_MODEL: Final = "digits"
TOKEN_KEY: Final = "token"
CLAIM_SIZE: Final = "50Gi"
ROUTER_CLAIM_SIZE: Final = "10Gi"
GPU_RESOURCE: Final = "nvidia.com/gpu"
DRAIN_SECONDS: Final = 120
STARTUP_SECONDS: Final = 1800
MAX_TOKENS: Final = 65536
MAX_REQUESTS: Final = 8
MAX_LOADED_ADAPTERS: Final = 8
WEIGHTS_SCALE: Final = 1.0

_EDGES: Final = {"encoderToDenoiser": Role.ENCODER, "denoiserToDecoder": Role.DENOISER}
"""By the role that makes what is sent."""
_SCHEDULING: Final = ("priorityClassName", "schedulerName", "runtimeClassName", "nodeSelector", "tolerations")


def from_defaulted(resource: Object) -> Pipeline:
    """Raises InvalidResourceError for what the definition cannot check: pod templates, names of labels."""
    metadata, spec = resource["metadata"], resource["spec"]
    denoisers = spec["roles"][Role.DENOISER]["replicas"]
    shared_memory = spec["sharedMemorySize"]
    return Pipeline(
        name=metadata["name"],
        namespace=metadata.get("namespace", "default"),
        suspended=spec["suspend"],
        restart=spec.get("restart", {}).get("id", ""),
        labels=check_names(spec.get("commonLabels", {}), ("spec", "commonLabels")),
        annotations=check_names(spec.get("commonAnnotations", {}), ("spec", "commonAnnotations")),
        image=image(spec.get("image", {})),
        pull_secrets=tuple(secret["name"] for secret in spec.get("imagePullSecrets", ())),
        service_account=spec.get("serviceAccountName", ""),
        security_profile=spec.get("securityProfile", ""),
        model=_model(spec["model"]),
        roles={role: role_spec(role, spec["roles"].get(role, {}), denoisers) for role in Role},
        transport=_transport(spec["transport"]),
        topology=_topology(spec.get("topology")),
        shared_memory=str(shared_memory) if parse_quantity(shared_memory) else "",
        router=_router(spec["router"]),
        scheduling=_scheduling(spec.get("scheduling", {})),
        pod_monitor=spec["monitoring"]["podMonitor"],
        scrape_annotations=spec["monitoring"]["scrapeAnnotations"],
        isolation=isolation(spec["networkPolicy"]),
        update=update(spec["update"], metadata),
    )


def image(spec: Object) -> Image:
    return Image(
        repository=spec.get("repository", ""),
        tag=spec.get("tag", ""),
        digest=spec.get("digest", ""),
        pull_policy=spec.get("pullPolicy", ""),
    )


def _model(spec: Object) -> Model:
    cache = spec["cache"]
    # Others fill it, for all of a node's workers.
    filled = cache["type"] == "ModelCache"
    return Model(
        source=spec["source"],
        id=spec.get("id", BUNDLED_MODEL),
        revision=spec.get("revision", ""),
        claim=spec.get("claimName", ""),
        sub_path=spec.get("subPath", ""),
        variant=spec.get("variant", ""),
        dtype=spec["dtype"],
        allow_pickle=spec["allowPickle"],
        token=secret_key(spec.get("tokenSecretRef")),
        cache=Cache(
            type=cache["type"],
            claim=cache.get("claimName", ""),
            name=cache.get("modelCacheName", ""),
            size=str(cache.get("size", CLAIM_SIZE if cache["type"] == "PerPod" else "")),
            storage_class=cache.get("storageClassName", ""),
            path=cache["mountPath"],
            read_only=cache["readOnly"] or filled,
            download=cache["downloadPolicy"] == "IfNotPresent" and not filled,
        ),
        vae_tiling=spec.get("vae", {}).get("tiling", False),
        adapters=tuple(Adapter(**_weights(item), file=item.get("file", "")) for item in spec.get("adapters", ())),
        adapter_folder=_adapter_folder(spec),
        schedulers=tuple(
            Scheduler(name=item["name"], class_name=item["class"], options=item.get("options", {}))
            for item in spec.get("schedulers", ())
        ),
        control_nets=tuple(
            ControlNet(**_weights(item), subfolder=item.get("subfolder", "")) for item in spec.get("controlNets", ())
        ),
        ip_adapters=tuple(
            IPAdapter(**_weights(item), file=item["file"], image_encoder=_image_encoder(item.get("imageEncoder", {})))
            for item in spec.get("ipAdapters", ())
        ),
    )


def _image_encoder(spec: Object) -> ImageEncoder:
    return ImageEncoder(id=spec.get("id", ""), revision=spec.get("revision", ""), subfolder=spec.get("subfolder", ""))


def _weights(spec: Object) -> dict[str, Any]:
    """What all kinds of weights beside the model's own have in common."""
    return {
        "name": spec["name"],
        "source": spec["source"],
        "id": spec["id"],
        "revision": spec.get("revision", ""),
        "scale": float(spec.get("scale", WEIGHTS_SCALE)),
    }


def _adapter_folder(spec: Object) -> AdapterFolder | None:
    if "adapterSource" not in spec:
        return None
    return AdapterFolder(
        path=spec["adapterSource"]["path"], max_loaded=spec.get("maxLoadedAdapters", MAX_LOADED_ADAPTERS)
    )


def secret_key(spec: Object | None) -> SecretKey | None:
    return SecretKey(name=spec["name"], key=spec.get("key", TOKEN_KEY)) if spec else None


def role_spec(role: Role, spec: Object, denoisers: int) -> RoleSpec:
    """`denoisers`: the denoiser's replicas, which a colocated role has too. Raises InvalidResourceError."""
    colocated = "colocateWith" in spec
    gpus = spec.get("gpus", 0)
    update, disruption = spec.get("updateStrategy", {}), spec.get("disruptionBudget", {})
    retention, batching = spec.get("cacheRetention", {}), spec.get("batching", {})
    path = ("spec", "roles", str(role))
    gpu_resource = spec.get("gpuResourceName", GPU_RESOURCE)
    return RoleSpec(
        role=role,
        replicas=denoisers if colocated else spec.get("replicas", 1),
        colocated=colocated,
        external=spec.get("scaling", {}).get("mode") == "External",
        gpus=gpus,
        gpu_resource=gpu_resource,
        device=spec.get("device", "cuda" if gpus else "cpu"),
        threads=spec.get("threads"),
        resources=check_resources(spec.get("resources", {}), gpu_resource if gpus else "", (*path, "resources")),
        resource_claims=tuple(spec.get("resourceClaims", ())),
        env=tuple(variable(item) for item in spec.get("env", ())),
        args=tuple(spec.get("args", ())),
        pod_template=check_pod_template(spec.get("podTemplate", {}), (*path, "podTemplate")),
        update=UpdateStrategy(
            type=update.get("type", "RollingUpdate"),
            partition=update.get("partition", 0),
            max_unavailable=update.get("maxUnavailable", 1),
        ),
        min_ready_seconds=spec.get("minReadySeconds", 0),
        drain_seconds=spec.get("drainTimeoutSeconds", DRAIN_SECONDS),
        startup_seconds=spec.get("startupTimeoutSeconds", STARTUP_SECONDS),
        disruption=DisruptionBudget(
            enabled=disruption.get("enabled", True), max_unavailable=disruption.get("maxUnavailable", 1)
        ),
        scheduling={name: spec[name] for name in _SCHEDULING if spec.get(name)},
        affinity=check_affinity(spec.get("affinity", {}), (*path, "affinity")),
        spread=tuple(spec.get("topologySpreadConstraints", ())),
        cache_retention=CacheRetention(
            when_scaled=retention.get("whenScaled", "Retain"), when_deleted=retention.get("whenDeleted", "Delete")
        ),
        batching=Batching(
            mode=batching.get("mode", "Guidance"),
            max_tokens=batching.get("maxTokens", MAX_TOKENS),
            max_requests=batching.get("maxRequests", MAX_REQUESTS),
        ),
        cache_share=spec.get("cacheShare"),
        checkpoint_seconds=spec.get("checkpointSeconds"),
    )


def _transport(spec: Object) -> Transport:
    rdma, edges = spec.get("rdma"), spec.get("edges", {})
    return Transport(
        backend=spec["backend"],
        protocol=spec["protocol"],
        fallback=spec["fallback"],
        edges={role: edges[name]["protocol"] for name, role in _EDGES.items() if name in edges},
        rdma=None if rdma is None else _rdma(rdma),
        pool_size=parse_quantity(spec["poolSize"]),
        huge_pages=spec.get("hugePages", ""),
        port_min=spec["rpcPortRange"]["min"],
        port_max=spec["rpcPortRange"]["max"],
    )


def _topology(spec: Object | None) -> Topology | None:
    return Topology(key=spec["key"], required=spec.get("mode") == "Require") if spec else None


def _rdma(spec: Object) -> Rdma:
    return Rdma(
        resources=(spec["resourceName"],) if "resourceName" in spec else tuple(spec.get("resourceNames", ())),
        claim_template=spec.get("resourceClaimTemplateName", ""),
        count=spec.get("count", 1),
        devices=tuple(spec.get("devices", ())),
        gid_index=spec.get("gidIndex"),
        ipc_lock=spec.get("ipcLock", "Auto"),
        networks=tuple(spec.get("networks", ())),
        network_selections=tuple(spec.get("networkSelections", ())),
        host_network=spec.get("hostNetwork", False),
    )


def _scheduling(spec: Object) -> Scheduling:
    factor = spec.get("targetFactor")
    return Scheduling(
        policy=spec.get("policy"),
        target_factor=float(factor) if factor is not None else None,
        late_share=spec.get("lateShare"),
    )


def _router(spec: Object) -> RouterSettings:
    storage: Mapping[str, Any] = spec["storage"]
    return RouterSettings(
        image=image(spec.get("image", {})),
        http_port=spec["httpPort"],
        grpc_port=spec["grpcPort"],
        lease_seconds=spec["leaseSeconds"],
        request_timeout_seconds=spec["requestTimeoutSeconds"],
        max_queued_requests=spec["maxQueuedRequests"],
        storage=Storage(
            type=storage["type"],
            size=str(storage.get("size", ROUTER_CLAIM_SIZE if storage["type"] == "PersistentVolumeClaim" else "")),
            storage_class=storage.get("storageClassName", ""),
        ),
        service=api_service(spec["service"]),
    )
