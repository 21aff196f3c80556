"""What the core is told of a job that is written down."""

from __future__ import annotations

from diffusion_router import core
from diffusion_router.core.offers import of_control_net, of_ip_adapter
from diffusion_router.store import JobRecord
from diffusionpipeline.v1 import stage_pb2


def submitted(
    record: JobRecord, now: float, core_now: float, *, restored: bool = False, conditioning: str = ""
) -> core.JobSubmitted:
    """now: on the store's clock; core_now: the same moment on the core's. restored: an earlier life of the router
    accepted it; its deadline and its target stay when they were."""
    ahead = core_now - now
    accepted = record.created_at if record.accepted_at is None else record.accepted_at
    return core.JobSubmitted(
        record.id,
        record.deadline_at + ahead,
        shape_of(record.parameters),
        record.kills,
        restored=restored,
        conditioning=conditioning,
        batch=batch_of(record.parameters),
        adapters=_adapters(record.parameters),
        scheduler=record.parameters.scheduler,
        since=accepted + ahead,
        target=record.target_seconds,
        priority=core.Priority(record.priority),
        tenant=record.tenant,
    )


def shape_of(parameters: stage_pb2.JobParameters) -> str:
    """Requests of one shape take about the same time."""
    p = parameters
    # Adapters, ControlNets and IP-Adapters are computed beside the model's own weights.
    adapters = f"+{len(p.adapters)}" if p.adapters else ""
    controls = f"&{len(p.controls)}" if p.controls else ""
    ip_adapters = f"^{len(p.ip_adapters)}" if p.ip_adapters else ""
    # Schedulers of second order make almost twice as many steps as are asked for.
    scheduler = f" by {p.scheduler}" if p.scheduler else ""
    return f"{p.width}x{p.height}x{p.num_frames}/{p.num_inference_steps}{adapters}{controls}{ip_adapters}{scheduler}"


def batch_of(parameters: stage_pb2.JobParameters) -> str:
    """Requests of one batch can share forwards, whatever number of steps each makes. Empty: it wants no company."""
    p = parameters
    if p.exact:
        return ""
    beside = "".join(f"+{adapter.name}*{adapter.scale}" for adapter in p.adapters)
    return f"{p.width}x{p.height}x{p.num_frames}{beside}{''.join(sorted(_adapters(p)))}"


def _adapters(parameters: stage_pb2.JobParameters) -> frozenset[str]:
    leading = (of_control_net(control.name) for control in parameters.controls)
    showing = (of_ip_adapter(one.name) for one in parameters.ip_adapters)
    return frozenset(adapter.name for adapter in parameters.adapters).union(leading, showing)
