"""Pod templates of workers and router.

With securityProfile Restricted they pass PodSecurity `restricted` but for two cases: backend shm, whose pods share the
node's /dev/shm by a hostPath, and RDMA, whose workers lock memory or are on the node's network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any, Final

from diffusion_operator.api import Image, Pipeline, Role, RoleSpec
from diffusion_operator.render import names, rdma, storage
from diffusion_operator.render.environment import router_environment, worker_environment
from diffusion_operator.render.images import reference
from diffusion_operator.render.merge import merged_template
from diffusion_operator.render.placement import placement, worker_placement
from diffusion_operator.render.ports import worker_ports
from diffusion_operator.render.security import container_security, pod_security

Object = dict[str, Any]

# Between the end of draining and the kill: the worker's own clean-up.
GRACE_SECONDS: Final = 10
ROUTER_GRACE_SECONDS: Final = 30
# Without requests its pod would be the first to go when a node runs short, and it leads all others. What it takes at
# rest, and what its bounds on bodies, connections and answers let clients make of that.
_ROUTER_RESOURCES: Final[Object] = {
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"memory": "2Gi"},
}
_CPU_BESIDE_HUGE_PAGES: Final = "100m"
_EVICTABLE: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
# A pod is ready no sooner than its first startup probe that succeeds.
_STARTUP_PERIOD: Final = 2


def worker_template(pipeline: Pipeline, spec: RoleSpec, roles: Sequence[Role], generation: str, image: str) -> Object:
    """The template of the pods of `spec.role`, whose one process runs `roles`."""
    ports = worker_ports(pipeline)
    volumes, mounts = storage.worker_volumes(pipeline)
    spec, huge = _with_cpu_for_huge_pages(pipeline, spec), storage.huge_pages(pipeline)
    gpus = {spec.gpu_resource: str(spec.gpus)} if spec.gpus else {}
    claims = {claim["name"]: dict(claim) for claim in (*rdma.claims(pipeline, roles), *spec.resource_claims)}
    main = {
        **_container(spec, pipeline.image, image, "diffusion_worker", ["--role", ",".join(roles)]),
        **container_security(pipeline, spec, rdma.security_context() if rdma.locks_memory(pipeline, roles) else {}),
        "envFrom": [{"configMapRef": {"name": names.config_map(pipeline, generation)}}],
        "env": worker_environment(pipeline, spec, ports),
        "volumeMounts": mounts,
        **_reached(spec, ports, probed=names.HEALTH, ready="/readyz"),
        **_resources(spec, {**rdma.resources(pipeline, roles), **gpus, **huge}, claims),
    }
    pod = {
        **_pod(pipeline, spec, main, volumes, grace=spec.drain_seconds + GRACE_SECONDS),
        **({"resourceClaims": list(claims.values())} if claims else {}),
        **worker_placement(pipeline, spec),
    }
    annotations = _annotations(pipeline, ports[names.HEALTH]) | rdma.pod_annotations(pipeline, roles)
    annotations |= _evictable(volumes)
    return _template(pipeline, spec, names.labels(pipeline, spec.role, generation), annotations, pod)


def router_template(pipeline: Pipeline, image: str) -> Object:
    spec = pipeline.roles[Role.ROUTER]
    ports = {names.HTTP: pipeline.router.http_port, names.GRPC: pipeline.router.grpc_port}
    volumes, mounts = storage.router_volumes(pipeline)
    main = {
        **_container(spec, pipeline.router.image, image, "diffusion_router", []),
        **container_security(pipeline, spec, {}),
        "env": router_environment(pipeline, ports),
        "volumeMounts": mounts,
        # Not /readyz, which waits for workers: jobs are taken, told of and kept while a role has none.
        **_reached(spec, ports, probed=names.HTTP, ready="/healthz"),
        **_resources(spec if spec.resources else replace(spec, resources=_ROUTER_RESOURCES), {}),
    }
    pod = {**_pod(pipeline, spec, main, volumes, grace=ROUTER_GRACE_SECONDS), **placement(pipeline, spec)}
    annotations = _annotations(pipeline, pipeline.router.http_port) | _evictable(volumes, but_not=names.DATA_VOLUME)
    return _template(pipeline, spec, names.labels(pipeline, Role.ROUTER), annotations, pod)


def _template(
    pipeline: Pipeline, spec: RoleSpec, own: Mapping[str, str], annotations: Mapping[str, str], pod: Object
) -> Object:
    """own: labels by which the StatefulSet and the router know the pod."""
    metadata: Object = {"labels": {**pipeline.labels, **own}}
    if annotations := {**pipeline.annotations, **annotations}:
        metadata["annotations"] = annotations
    template = {"metadata": metadata, "spec": pod}
    if not spec.pod_template:
        return template
    merged = merged_template(template, spec.pod_template)
    merged["metadata"]["labels"] = {**(merged["metadata"].get("labels") or {}), **own}
    return merged


def _annotations(pipeline: Pipeline, port: int) -> dict[str, str]:
    found = {}
    if pipeline.restart:
        found[names.RESTART_ANNOTATION] = pipeline.restart
    if pipeline.scrape_annotations:
        found |= {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(port),
            "prometheus.io/path": "/metrics",
        }
    return found


def _evictable(volumes: Sequence[Object], *, but_not: str = "") -> dict[str, str]:
    """Else the cluster autoscaler keeps a node for any local volume of a pod, though it be scratch.

    https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md, what types of pods can prevent it
    """
    scratch = [volume["name"] for volume in volumes if "emptyDir" in volume and volume["name"] != but_not]
    return {_EVICTABLE: ",".join(scratch)} if scratch else {}


def _container(spec: RoleSpec, image: Image, default: str, module: str, args: Sequence[str]) -> Object:
    container: Object = {"name": names.MAIN, "image": reference(image, default)}
    if image.pull_policy:
        container["imagePullPolicy"] = image.pull_policy
    container["command"] = ["python", "-m", module]
    if args or spec.args:
        container["args"] = [*args, *spec.args]
    return container | {
        # The last thing that a process said is why it ended.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _reached(spec: RoleSpec, ports: Mapping[str, int], *, probed: str, ready: str) -> Object:
    """Ports and probes. Loading a model takes minutes; until it is loaded a worker is alive but not ready."""
    failures = ceil(spec.startup_seconds / _STARTUP_PERIOD)
    return {
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()],
        "startupProbe": _probe("/healthz", probed, period=_STARTUP_PERIOD, failures=failures),
        "livenessProbe": _probe("/healthz", probed, period=10, failures=6),
        "readinessProbe": _probe(ready, probed, period=5, failures=2),
    }


def _resources(spec: RoleSpec, extended: Mapping[str, str], claims: Collection[str] = ()) -> Object:
    """Extended resources are requested and limited alike, unless the user names one: then it is the user's alone."""
    requests, limits = spec.resources.get("requests", {}), spec.resources.get("limits", {})
    ours = {name: count for name, count in extended.items() if name not in requests and name not in limits}
    found = {"requests": {**requests, **ours}, "limits": {**limits, **ours}}
    given: Object = {kind: {name: str(size) for name, size in sizes.items()} for kind, sizes in found.items() if sizes}
    if claims:
        given["claims"] = [{"name": name} for name in claims]
    return {"resources": given} if given else {}


def _with_cpu_for_huge_pages(pipeline: Pipeline, spec: RoleSpec) -> RoleSpec:
    """Kubernetes takes no container that asks for huge pages, and neither for cpu nor for memory."""
    named = {name for kind in ("requests", "limits") for name in spec.resources.get(kind, {})}
    if not pipeline.transport.huge_pages or named & {"cpu", "memory"}:
        return spec
    requests = {**spec.resources.get("requests", {}), "cpu": _CPU_BESIDE_HUGE_PAGES}
    return replace(spec, resources={**spec.resources, "requests": requests})


def _pod(pipeline: Pipeline, spec: RoleSpec, main: Object, volumes: Sequence[Object], *, grace: int) -> Object:
    pod: Object = {
        "serviceAccountName": names.service_account(pipeline),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace,
        **pod_security(pipeline, spec),
        "containers": [main],
        "volumes": list(volumes),
    }
    if pipeline.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in pipeline.pull_secrets]
    return pod


def _probe(path: str, port: str, *, period: int, failures: int) -> Object:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }
