"""The environment of the container main: what a process is told of its pod, its role and its peers.

Variables that all workers of a pipeline share are in the generation's ConfigMap; here are the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusion_operator.api import Batching, CaBundle, Pipeline, Role, RoleSpec, Scheduling, SecretKey
from diffusion_operator.render import adapters, controls, ip_adapters, names, rdma, schedulers, storage
from diffusion_operator.render.ports import transfer_ports

Variable = dict[str, Any]


def worker_environment(pipeline: Pipeline, spec: RoleSpec, ports: Mapping[str, int]) -> list[Variable]:
    model, transport = pipeline.model, pipeline.transport
    first_port, last_port = transfer_ports(pipeline)
    env = [
        *_pod(),
        *authorities(pipeline.ca_bundle),
        _value("DIFFUSION_WORKER_PIPELINE", pipeline.name),
        _value("DIFFUSION_WORKER_POD_NAME", "$(POD_NAME)"),
        _value("DIFFUSION_WORKER_POD_UID", "$(POD_UID)"),
        _value("DIFFUSION_WORKER_HOST", "$(POD_IP)"),
        _value("DIFFUSION_WORKER_ROUTER", names.router_address(pipeline)),
        _value("DIFFUSION_WORKER_DEVICE", spec.device),
        _value("DIFFUSION_WORKER_POOL_SIZE", str(transport.pool_size)),
        *([_value("DIFFUSION_WORKER_HUGE_PAGES", transport.huge_pages)] if transport.huge_pages else ()),
        _value(names.PORT_MIN_VARIABLE, str(first_port)),
        _value(names.PORT_MAX_VARIABLE, str(last_port)),
        *_ports(ports),
        *([_value(names.SHM_KEY_VARIABLE, names.shm_key(pipeline))] if transport.backend == "shm" else ()),
        _value("DIFFUSION_WORKER_DRAIN_SECONDS", str(spec.drain_seconds)),
        _value("HF_HOME", storage.hub_home(pipeline)),
        *(_value(name, value) for name, value in rdma.environment(pipeline).items()),
        *(_batching(spec.batching) if spec.role is Role.DENOISER else ()),
        *_cache_share(pipeline.roles[Role.ENCODER], spec.role),
        *(_value(name, value) for name, value in adapters.variables(model).items() if spec.role is not Role.DECODER),
        # A decoder of a pipeline without blocks runs the pipeline's own code, by the scheduler that it was made with.
        *(_value(name, value) for name, value in schedulers.meaning(model).items()),
        *(_value(name, value) for name, value in controls.variables(model).items()),
        *(_value(name, value) for name, value in ip_adapters.variables(model).items()),
    ]
    if not model.cache.download:
        env.append(_value("HF_HUB_OFFLINE", "1"))
    if model.cache.type == "ModelCache":
        env.append(_value("DIFFUSION_WORKER_CACHE_WAIT_SECONDS", str(spec.startup_seconds)))
    env += hub_token(model.token)
    if spec.threads is not None:
        # The libraries read theirs when they are loaded, before the worker could tell them.
        env += [
            _value(name, str(spec.threads))
            for name in ("DIFFUSION_WORKER_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        ]
    return merged(env, spec.env)


def router_environment(pipeline: Pipeline, ports: Mapping[str, int]) -> list[Variable]:
    router = pipeline.router
    env = [
        *_pod(),
        *authorities(pipeline.ca_bundle),
        _value("DIFFUSION_ROUTER_PIPELINE", pipeline.name),
        _value("DIFFUSION_ROUTER_NAMESPACE", pipeline.namespace),
        # All addresses, also those of IPv6: either wildcard means both, and routers of every version know this one.
        _value("DIFFUSION_ROUTER_HOST", "0.0.0.0"),
        *_ports(ports),
        _value("DIFFUSION_ROUTER_DATA_DIR", storage.DATA_PATH),
        _value("DIFFUSION_ROUTER_MODEL_ID", pipeline.model.id),
        _value("DIFFUSION_ROUTER_LEASE_SECONDS", str(router.lease_seconds)),
        _value("DIFFUSION_ROUTER_REQUEST_TIMEOUT_SECONDS", str(router.request_timeout_seconds)),
        _value("DIFFUSION_ROUTER_MAX_QUEUED_REQUESTS", str(router.max_queued_requests)),
        *_scheduling(pipeline.scheduling),
        *_checkpoints(pipeline.roles[Role.DENOISER]),
    ]
    return merged(env, pipeline.roles[Role.ROUTER].env)


def merged(ours: Sequence[Mapping[str, Any]], users: Sequence[Mapping[str, Any]]) -> list[Variable]:
    """The user's variables win, and come last so that they may refer to ours."""
    given = {item["name"] for item in users}
    return [dict(item) for item in ours if item["name"] not in given] + [dict(item) for item in users]


def _batching(batching: Batching) -> list[Variable]:
    bounds = {"MAX_TOKENS": batching.max_tokens, "MAX_REQUESTS": batching.max_requests}
    return [
        _value("DIFFUSION_WORKER_BATCHING_MODE", batching.mode),
        *(
            _value(f"DIFFUSION_WORKER_{name}", str(bound))
            for name, bound in bounds.items()
            if batching.mode == "Requests"
        ),
    ]


def _scheduling(scheduling: Scheduling) -> list[Variable]:
    said = {
        "SCHEDULING_POLICY": scheduling.policy,
        "TARGET_FACTOR": scheduling.target_factor,
        "LATE_SHARE": scheduling.late_share,
    }
    return [_value(f"DIFFUSION_ROUTER_{name}", str(value)) for name, value in said.items() if value is not None]


def _checkpoints(denoiser: RoleSpec) -> list[Variable]:
    """The router asks for them: no denoiser is replaced for another interval."""
    seconds = denoiser.checkpoint_seconds
    return [] if seconds is None else [_value("DIFFUSION_ROUTER_CHECKPOINT_SECONDS", str(seconds))]


def _cache_share(encoder: RoleSpec, pods_of: Role) -> list[Variable]:
    """Where it is left out the worker has a share of its own: no pod is replaced for it."""
    encodes = pods_of is (Role.DENOISER if encoder.colocated else Role.ENCODER)
    if encoder.cache_share is None or not encodes:
        return []
    return [_value("DIFFUSION_WORKER_CACHE_SHARE", f"{encoder.cache_share:g}")]


def hub_token(token: SecretKey | None) -> list[Variable]:
    if token is None:
        return []
    reference = {"name": token.name, "key": token.key}
    return [{"name": names.HUB_TOKEN_VARIABLE, "valueFrom": {"secretKeyRef": reference}}]


def authorities(bundle: CaBundle | None) -> list[Variable]:
    """Python's own TLS and what is built on OpenSSL or rustls read the one, requests the other."""
    if bundle is None:
        return []
    return [_value(name, storage.CA_FILE) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]


def _pod() -> list[Variable]:
    return [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for name, path in (("POD_NAME", "metadata.name"), ("POD_UID", "metadata.uid"), ("POD_IP", "status.podIP"))
    ]


def _ports(ports: Mapping[str, int]) -> list[Variable]:
    return [_value(names.PORT_VARIABLES[name], str(port)) for name, port in ports.items()]


def _value(name: str, value: str) -> Variable:
    return {"name": name, "value": value}
