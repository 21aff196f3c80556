"""Pod templates of workers and router.

They pass PodSecurity `restricted` but for one case: backend shm, whose pods share the node's /dev/shm by a hostPath.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from diffusion_operator.api import MODEL_ROLES, Pipeline, Role, RoleSpec
from diffusion_operator.render import names

Object = dict[str, Any]
Variable = dict[str, Any]

DRAIN_SECONDS: Final = 120
ROUTER_GRACE_SECONDS: Final = 30
# Loading a large model from a cold disk takes many minutes; until it is loaded the pod is alive but not ready.
STARTUP_FAILURES: Final = 180

MODELS_PATH: Final = "/models"
DATA_PATH: Final = "/var/lib/diffusion-router"


def worker_template(pipeline: Pipeline, spec: RoleSpec, roles: Sequence[Role], generation: str, image: str) -> Object:
    """The template of the pods of `spec.role`, whose one process runs `roles`."""
    ports = {names.HEALTH: names.WORKER_HEALTH_PORT, names.GRPC_HEALTH: names.WORKER_GRPC_HEALTH_PORT}
    volumes = [_empty(names.SCRATCH_VOLUME), _empty(names.MODELS_VOLUME)]
    mounts = [_mount(names.SCRATCH_VOLUME, "/tmp"), _mount(names.MODELS_VOLUME, MODELS_PATH)]
    if pipeline.transport.backend == "shm":
        volumes.append({"name": names.SHARED_MEMORY_VOLUME, "hostPath": {"path": "/dev/shm", "type": "Directory"}})
        mounts.append(_mount(names.SHARED_MEMORY_VOLUME, "/dev/shm"))
    main = _container(
        image=image,
        module="diffusion_worker",
        args=["--role", ",".join(roles), *spec.args],
        env=_merged(_worker_env(pipeline, spec, ports, generation), spec.env),
        ports=ports,
        probed=names.HEALTH,
        mounts=mounts,
    )
    pod = _pod(main, volumes, grace=DRAIN_SECONDS + 10)
    if pipeline.transport.backend == "shm":
        pod["affinity"] = _one_node(pipeline)
    return {"metadata": {"labels": names.labels(pipeline, spec.role, generation)}, "spec": pod}


def router_template(pipeline: Pipeline, image: str) -> Object:
    """Jobs and artifacts are kept in a volume that lives as long as the pod: past a crash of the process."""
    spec = pipeline.roles[Role.ROUTER]
    ports = {names.HTTP: pipeline.router.http_port, names.GRPC: pipeline.router.grpc_port}
    main = _container(
        image=image,
        module="diffusion_router",
        args=spec.args,
        env=_merged(_router_env(pipeline, ports), spec.env),
        ports=ports,
        probed=names.HTTP,
        mounts=[_mount(names.SCRATCH_VOLUME, "/tmp"), _mount(names.DATA_VOLUME, DATA_PATH)],
    )
    volumes = [_empty(names.SCRATCH_VOLUME), _empty(names.DATA_VOLUME)]
    return {
        "metadata": {"labels": names.labels(pipeline, Role.ROUTER)},
        "spec": _pod(main, volumes, grace=ROUTER_GRACE_SECONDS),
    }


def _worker_env(pipeline: Pipeline, spec: RoleSpec, ports: Mapping[str, int], generation: str) -> list[Variable]:
    model, transport = pipeline.model, pipeline.transport
    env = [
        _field("POD_NAME", "metadata.name"),
        _field("POD_IP", "status.podIP"),
        _value("DIFFUSION_WORKER_PIPELINE", pipeline.name),
        _value("DIFFUSION_WORKER_POD_NAME", "$(POD_NAME)"),
        _value("DIFFUSION_WORKER_HOST", "$(POD_IP)"),
        _value("DIFFUSION_WORKER_ROUTER", names.router_address(pipeline)),
        _value("DIFFUSION_WORKER_GENERATION", generation),
        _value("DIFFUSION_WORKER_MODEL_SOURCE", model.source),
        _value("DIFFUSION_WORKER_MODEL_ID", model.id),
        _value("DIFFUSION_WORKER_MODEL_REVISION", model.revision),
        _value("DIFFUSION_WORKER_MODEL_DTYPE", model.dtype),
        _value("DIFFUSION_WORKER_ALLOW_PICKLE", str(model.allow_pickle).lower()),
        _value("DIFFUSION_WORKER_DEVICE", spec.device),
        _value("DIFFUSION_WORKER_BACKEND", transport.backend),
        _value("DIFFUSION_WORKER_PROTOCOL", transport.protocol),
        _value("DIFFUSION_WORKER_FALLBACK", transport.fallback),
        _value("DIFFUSION_WORKER_POOL_SIZE", str(transport.pool_size)),
        _value(names.PORT_MIN_VARIABLE, str(transport.port_min)),
        _value(names.PORT_MAX_VARIABLE, str(transport.port_max)),
        *_port_values(ports),
        _value("DIFFUSION_WORKER_DRAIN_SECONDS", str(DRAIN_SECONDS)),
        _value("HF_HOME", MODELS_PATH),
    ]
    if spec.threads is not None:
        # The libraries read theirs when they are loaded, before the worker could tell them.
        env += [
            _value(name, str(spec.threads))
            for name in ("DIFFUSION_WORKER_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        ]
    return env


def _router_env(pipeline: Pipeline, ports: Mapping[str, int]) -> list[Variable]:
    router = pipeline.router
    return [
        _field("POD_NAME", "metadata.name"),
        _field("POD_IP", "status.podIP"),
        _value("DIFFUSION_ROUTER_PIPELINE", pipeline.name),
        _value("DIFFUSION_ROUTER_HOST", "0.0.0.0"),
        *_port_values(ports),
        _value("DIFFUSION_ROUTER_DATA_DIR", DATA_PATH),
        _value("DIFFUSION_ROUTER_MODEL_ID", pipeline.model.id),
        _value("DIFFUSION_ROUTER_LEASE_SECONDS", str(router.lease_seconds)),
        _value("DIFFUSION_ROUTER_REQUEST_TIMEOUT_SECONDS", str(router.request_timeout_seconds)),
        _value("DIFFUSION_ROUTER_MAX_QUEUED_REQUESTS", str(router.max_queued_requests)),
    ]


def _port_values(ports: Mapping[str, int]) -> list[Variable]:
    return [_value(names.PORT_VARIABLES[name], str(port)) for name, port in ports.items()]


def _merged(ours: Sequence[Variable], users: Sequence[tuple[str, str]]) -> list[Variable]:
    """The user's variables win, and come last so that they may refer to ours."""
    given = {name for name, _ in users}
    return [item for item in ours if item["name"] not in given] + [_value(name, value) for name, value in users]


def _container(
    *,
    image: str,
    module: str,
    args: Sequence[str],
    env: Sequence[Variable],
    ports: Mapping[str, int],
    probed: str,
    mounts: Sequence[Object],
) -> Object:
    container: Object = {
        "name": names.MAIN,
        "image": image,
        "command": ["python", "-m", module],
        "args": list(args),
        "env": list(env),
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()],
        "startupProbe": _probe("/healthz", probed, period=10, failures=STARTUP_FAILURES),
        "livenessProbe": _probe("/healthz", probed, period=10, failures=6),
        "readinessProbe": _probe("/readyz", probed, period=5, failures=2),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": list(mounts),
    }
    if not args:
        del container["args"]
    return container


def _pod(main: Object, volumes: Sequence[Object], *, grace: int) -> Object:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [main],
        "volumes": list(volumes),
    }


def _one_node(pipeline: Pipeline) -> Object:
    """Shared memory ends at the node, so every worker must be where the others are."""
    workers = {
        "matchLabels": {names.PIPELINE_LABEL: pipeline.name},
        "matchExpressions": [
            {"key": names.ROLE_LABEL, "operator": "In", "values": [role.value for role in MODEL_ROLES]}
        ],
    }
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": workers}
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def _probe(path: str, port: str, *, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def _value(name: str, value: str) -> Variable:
    return {"name": name, "value": value}


def _field(name: str, path: str) -> Variable:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _empty(name: str) -> Object:
    return {"name": name, "emptyDir": {}}


def _mount(name: str, path: str) -> Object:
    return {"name": name, "mountPath": path}
