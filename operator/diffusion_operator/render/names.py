"""Names, labels and ports that children and their readers agree on.

Selectors use only pipeline and role: a StatefulSet's selector can never change, so nothing that changes may be in it.
"""

from __future__ import annotations

from typing import Any, Final

from diffusion_operator.api import GROUP, MODEL_ROLES, Pipeline, Role

MAIN: Final = "main"
"""The container that runs our process. Others in a pod are sidecars."""
PULL: Final = "pull"
"""The init container of a model cache's pods, which ends once all is there."""

PIPELINE_LABEL: Final = f"{GROUP}/pipeline"
ROLE_LABEL: Final = f"{GROUP}/role"
GENERATION_LABEL: Final = f"{GROUP}/generation"
TRACK_LABEL: Final = f"{GROUP}/track"
CACHE_LABEL: Final = f"{GROUP}/model-cache"
"""Of the children and pods of a ModelCache: its name."""
RESTART_ANNOTATION: Final = f"{GROUP}/restart"

NAME_LABEL: Final = "app.kubernetes.io/name"
MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
OPERATOR: Final = "diffusion-operator"
"""Value of the label managed-by of every child, and of the label name of the operator's own pods."""

# Named ports of the container main.
HTTP: Final = "http"
GRPC: Final = "grpc"
HEALTH: Final = "health"
GRPC_HEALTH: Final = "grpc-health"

PORT_VARIABLES: Final = {
    HTTP: "DIFFUSION_ROUTER_HTTP_PORT",
    GRPC: "DIFFUSION_ROUTER_GRPC_PORT",
    HEALTH: "DIFFUSION_WORKER_HEALTH_PORT",
    GRPC_HEALTH: "DIFFUSION_WORKER_GRPC_HEALTH_PORT",
}
"""The variable that tells the process which port a named container port is."""

PORT_MIN_VARIABLE: Final = "DIFFUSION_WORKER_PORT_MIN"
PORT_MAX_VARIABLE: Final = "DIFFUSION_WORKER_PORT_MAX"
SHM_KEY_VARIABLE: Final = "DIFFUSION_WORKER_SHM_KEY"
HUB_TOKEN_VARIABLE: Final = "HF_TOKEN"

DATA_VOLUME: Final = "data"
CACHE_VOLUME: Final = "models"
MODEL_VOLUME: Final = "model"
SCRATCH_VOLUME: Final = "tmp"
SHARED_MEMORY_VOLUME: Final = "shared-memory"
CA_VOLUME: Final = "ca-bundle"


def child(pipeline: Pipeline, role: Role, track: str = "") -> str:
    """Name of a role's StatefulSet; that without a track is also its headless Service's, scaler's and budget's."""
    return f"{pipeline.name}-{role}-{track}" if track else f"{pipeline.name}-{role}"


def api_service(pipeline: Pipeline) -> str:
    """Name of the Service that clients use."""
    return f"{pipeline.name}-router-api"


def grpc_service(pipeline: Pipeline) -> str:
    """Name of the Service by which the router's gRPC interface is reached from within the cluster."""
    return api_service(pipeline) if GRPC in pipeline.router.service.ports else child(pipeline, Role.ROUTER)


def service_account(pipeline: Pipeline) -> str:
    return pipeline.service_account or f"{pipeline.name}-pipeline"


def config_map(pipeline: Pipeline, generation: str) -> str:
    return f"{pipeline.name}-{generation}"


def shm_key(pipeline: Pipeline) -> str:
    """What tells this pipeline from all others whose workers see the same shared memory."""
    return f"{pipeline.namespace}.{pipeline.name}"


def router_address(pipeline: Pipeline) -> str:
    """host:port of the router's gRPC interface, as workers reach it. The pod's own name, not a balanced one."""
    service = child(pipeline, Role.ROUTER)
    return f"{service}-0.{service}.{pipeline.namespace}.svc:{pipeline.router.grpc_port}"


def selector(pipeline: Pipeline, role: Role, track: str = "") -> dict[str, str]:
    return {PIPELINE_LABEL: pipeline.name, ROLE_LABEL: role.value, **({TRACK_LABEL: track} if track else {})}


def cache_selector(cache: str, role: Role) -> dict[str, str]:
    """Of the pods that pull for a role to their nodes; `cache` is the ModelCache's name."""
    return {CACHE_LABEL: cache, ROLE_LABEL: role.value}


def workers(pipeline: Pipeline) -> dict[str, Any]:
    """A label selector for all worker pods."""
    return {
        "matchLabels": {PIPELINE_LABEL: pipeline.name},
        "matchExpressions": [{"key": ROLE_LABEL, "operator": "In", "values": [role.value for role in MODEL_ROLES]}],
    }


def labels(pipeline: Pipeline, role: Role | None = None, generation: str | None = None) -> dict[str, str]:
    """By which a child, or a pod, of one role or of the whole pipeline is known."""
    found = {
        NAME_LABEL: "diffusion-pipeline",
        "app.kubernetes.io/instance": pipeline.name,
        "app.kubernetes.io/part-of": OPERATOR,
        MANAGED_BY_LABEL: OPERATOR,
        PIPELINE_LABEL: pipeline.name,
    }
    if role is not None:
        found |= {"app.kubernetes.io/component": role.value, ROLE_LABEL: role.value}
    if generation is not None:
        found[GENERATION_LABEL] = generation
    return found


def metadata(pipeline: Pipeline, name: str, role: Role | None = None, generation: str | None = None) -> dict[str, Any]:
    """Of a child."""
    own = labels(pipeline, role, generation)
    found = {"name": name, "namespace": pipeline.namespace, "labels": {**pipeline.labels, **own}}
    return found | ({"annotations": dict(pipeline.annotations)} if pipeline.annotations else {})
