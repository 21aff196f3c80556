"""Names, labels and ports that children and their readers agree on.

Selectors use only pipeline and role: a StatefulSet's selector can never change, so nothing that changes may be in it.
"""

from typing import Final

from diffusion_operator.api import GROUP, Pipeline, Role

MAIN: Final = "main"
"""The container that runs our process. Others in a pod are sidecars."""

PIPELINE_LABEL: Final = f"{GROUP}/pipeline"
ROLE_LABEL: Final = f"{GROUP}/role"
GENERATION_LABEL: Final = f"{GROUP}/generation"

# Named ports of the container main.
HTTP: Final = "http"
GRPC: Final = "grpc"
HEALTH: Final = "health"
GRPC_HEALTH: Final = "grpc-health"

WORKER_HEALTH_PORT: Final = 8080
WORKER_GRPC_HEALTH_PORT: Final = 8081

PORT_VARIABLES: Final = {
    HTTP: "DIFFUSION_ROUTER_HTTP_PORT",
    GRPC: "DIFFUSION_ROUTER_GRPC_PORT",
    HEALTH: "DIFFUSION_WORKER_HEALTH_PORT",
    GRPC_HEALTH: "DIFFUSION_WORKER_GRPC_HEALTH_PORT",
}
"""The variable that tells the process which port a named container port is."""

PORT_MIN_VARIABLE: Final = "DIFFUSION_WORKER_PORT_MIN"
PORT_MAX_VARIABLE: Final = "DIFFUSION_WORKER_PORT_MAX"

DATA_VOLUME: Final = "data"
MODELS_VOLUME: Final = "models"
SCRATCH_VOLUME: Final = "tmp"
SHARED_MEMORY_VOLUME: Final = "shared-memory"


def child(pipeline: Pipeline, role: Role) -> str:
    """Name of a role's StatefulSet and of its headless Service."""
    return f"{pipeline.name}-{role}"


def api_service(pipeline: Pipeline) -> str:
    """Name of the Service that clients use."""
    return f"{pipeline.name}-router-api"


def router_address(pipeline: Pipeline) -> str:
    """host:port of the router's gRPC interface, as workers reach it. The pod's own name, not a balanced one."""
    service = child(pipeline, Role.ROUTER)
    return f"{service}-0.{service}.{pipeline.namespace}.svc:{pipeline.router.grpc_port}"


def selector(pipeline: Pipeline, role: Role) -> dict[str, str]:
    return {PIPELINE_LABEL: pipeline.name, ROLE_LABEL: role.value}


def labels(pipeline: Pipeline, role: Role, generation: str | None = None) -> dict[str, str]:
    found = {
        "app.kubernetes.io/name": "diffusion-pipeline",
        "app.kubernetes.io/instance": pipeline.name,
        "app.kubernetes.io/component": role.value,
        "app.kubernetes.io/part-of": "diffusion-operator",
        "app.kubernetes.io/managed-by": "diffusion-operator",
        **selector(pipeline, role),
    }
    return found if generation is None else {**found, GENERATION_LABEL: generation}
