"""What Prometheus scrapes. One registry a worker, so that several may live in one process.

Labels are bounded: `role` is the role of a task's stage (of the whole worker for what belongs to no task), `kind` a
TransportError's kind, `outcome` done or a failure kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from platform import python_version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from diffusion_worker.transport import (
    DigestMismatch,
    EngineInitFailed,
    ModeMismatch,
    OutOfRange,
    PeerDead,
    Pool,
    Proof,
    SlotLost,
    StaleDescriptor,
    TransferTimeout,
)
from diffusionpipeline.v1 import stage_pb2
from diffusionpipeline.words import Stage, word

# From the bundled model's millisecond stages to two minutes of video.
_REQUESTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 120)

# How a task may end on a worker besides well. The router's own words are for jobs.
_ROUTERS: Final = (
    stage_pb2.FAILURE_KIND_UNSPECIFIED,
    stage_pb2.FAILURE_KIND_RETRIES_EXHAUSTED,
    stage_pb2.FAILURE_KIND_POISON,
)
_FAILURES: Final = [kind for kind in stage_pb2.FailureKind.values() if kind not in _ROUTERS]
_PULL_ERRORS: Final = (
    *(PeerDead, TransferTimeout, DigestMismatch, StaleDescriptor),
    *(OutOfRange, ModeMismatch, EngineInitFailed, SlotLost),
)
_PULL_FAILURES: Final = (*(error.kind for error in _PULL_ERRORS), "cancelled")


class StageMetrics:
    """The series of one stage, looked up once: tasks may be a millisecond long."""

    def __init__(self, metrics: Metrics, stage: Stage) -> None:
        role = stage.role
        self.stage_duration = metrics.stage_duration.labels(role)
        self.steps = metrics.steps.labels(role)
        self.step_duration = metrics.step_duration.labels(role)
        self.transfer_bytes = metrics.transfer_bytes.labels(role)
        self.transfer_duration = metrics.transfer_duration.labels(role)
        self.inflight = metrics.inflight.labels(role)
        self._done = metrics.tasks.labels(role, "done")
        self._copied = metrics.tasks.labels(role, "copied")
        if stage is Stage.DENOISE:
            self._parked = metrics.tasks.labels(role, "parked")
            self.park_duration = metrics.park_duration.labels(role)
            self.resumed = metrics.resumed.labels(role)
            self.checkpoint_duration = metrics.checkpoint_duration.labels(role)
            self.checkpoint_bytes = metrics.checkpoint_bytes.labels(role)
            self.checkpoints_left_out = metrics.checkpoints_left_out.labels(role)
        self._failures = metrics.transfer_failures
        self._tasks = metrics.tasks
        self._role = role
        # Prometheus sees no increase in a series that begins with its first event.
        for kind in _FAILURES:
            metrics.tasks.labels(role, word(stage_pb2.FailureKind, kind))
        for failed in _PULL_FAILURES:
            metrics.transfer_failures.labels(role, failed)

    def completed(self, *, copy: bool, parked: bool) -> Counter:
        return self._copied if copy else self._parked if parked else self._done

    def failed(self, kind: int) -> None:
        self._tasks.labels(self._role, word(stage_pb2.FailureKind, kind)).inc()

    def transfer_failed(self, kind: str) -> None:
        self._failures.labels(self._role, kind).inc()


class Metrics:
    """All series of one worker whose roles, in one word, are `label`."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, label: str, stages: Iterable[Stage]) -> None:
        self.registry = CollectorRegistry()
        self._label = label
        name, registry = "diffusion_worker_", self.registry
        self.stage_duration = Histogram(
            f"{name}stage_duration_seconds", "Compute time of a stage", ["role"], registry=registry, buckets=_SECONDS
        )
        self.steps = Counter(f"{name}steps_total", "Denoising steps", ["role"], registry=registry)
        self.step_duration = Histogram(
            f"{name}step_duration_seconds", "Time of a denoising step", ["role"], registry=registry, buckets=_SECONDS
        )
        # Only of networks that the hub calls: a model without any makes none.
        self.forward_requests = Histogram(
            f"{name}forward_requests",
            "Requests that shared a forward of a denoiser's network",
            ["role"],
            registry=registry,
            buckets=_REQUESTS,
        )
        self.forward_duration = Histogram(
            f"{name}forward_duration_seconds",
            "Time of it, and of what they did next",
            ["role"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.transfer_bytes = Counter(
            f"{name}transfer_bytes_total", "Payload bytes pulled from other pools", ["role"], registry=registry
        )
        self.transfer_duration = Histogram(
            f"{name}transfer_duration_seconds", "Time of a pull", ["role"], registry=registry, buckets=_SECONDS
        )
        self.transfer_failures = Counter(
            f"{name}transfer_failures_total", "Pulls that failed", ["role", "kind"], registry=registry
        )
        self.park_duration = Histogram(
            f"{name}park_duration_seconds",
            "Time from the command to park a denoising to the report that it is",
            ["role"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.resumed = Counter(
            f"{name}resumed_total", "Denoisings that went on from a checkpoint", ["role"], registry=registry
        )
        self.checkpoint_duration = Histogram(
            f"{name}checkpoint_duration_seconds",
            "How long a denoising stood still for a checkpoint to be kept while it goes on",
            ["role"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.checkpoint_bytes = Counter(
            f"{name}checkpoint_bytes_total", "Of such checkpoints", ["role"], registry=registry
        )
        self.checkpoints_left_out = Counter(
            f"{name}checkpoints_left_out_total",
            "Such checkpoints that were not made: the pool had no room to spare, or they can't be carried",
            ["role"],
            registry=registry,
        )
        self.tasks = Counter(f"{name}tasks_total", "Tasks that ended", ["role", "outcome"], registry=registry)
        self.inflight = Gauge(f"{name}tasks_inflight", "Tasks that have not ended", ["role"], registry=registry)
        self.model_load = Gauge(f"{name}model_load_seconds", "Time to load the model", ["role"], registry=registry)
        self.download_bytes = Gauge(
            f"{name}download_bytes",
            "Bytes of its share of a hub's model that are on this worker's disk",
            ["role"],
            registry=registry,
        )
        self.download_size = Gauge(
            f"{name}download_size_bytes", "Bytes that this share has; 0 before it is known", ["role"], registry=registry
        )
        self.download_pauses = Counter(
            f"{name}download_pauses_total",
            "Times that a download had to wait before it went on",
            ["role"],
            registry=registry,
        )
        self.connected = Gauge(
            f"{name}router_connected", "1 while registered with the router", ["role"], registry=registry
        )
        self.standing = Gauge(
            f"{name}standing_seconds",
            "How long what is computed has made no step; 0 if nothing is",
            ["role"],
            registry=registry,
        )
        self.peer_pull = Gauge(
            f"{name}peer_pull_bytes_per_second",
            "Of a large pull from a peer that makes this stage's outputs, when it first met one",
            ["role", "stage"],
            registry=registry,
        )
        build = Info(f"{name}build", "Versions", registry=registry)
        build.info({"version": version("diffusion-operator"), "python": python_version()})
        self.stages = {stage: StageMetrics(self, stage) for stage in stages}
        self.connected.labels(label).set(0)
        self.standing.labels(label).set(0)
        self.set_download(0, 0)
        self.download_pauses.labels(label)
        if Stage.DENOISE in self.stages:
            self.forward_requests.labels(label)
            self.forward_duration.labels(label)

    def of(self, stage: Stage) -> StageMetrics:
        """Of a task of this stage. What encoders made and a denoiser keeps counts among its own tasks."""
        return self.stages.get(stage) or self.stages[Stage.DENOISE]

    def watch(self, pool: Pool, proof: Proof) -> None:
        """Report the pool, read at each scrape, and what was measured when it was opened."""
        name, registry = "diffusion_worker_", self.registry
        Gauge(f"{name}pool_bytes", "Size of the pool", ["role"], registry=registry).labels(self._label).set(pool.size)
        for suffix, text, read in (
            ("pool_used_bytes", "Bytes of the pool that are leased", lambda: float(pool.bytes_used)),
            ("slots_used", "Slots that are leased or in quarantine", lambda: float(pool.slots_used)),
            ("slots_quarantined", "Slots in which late bytes may still land", lambda: float(pool.quarantined)),
        ):
            Gauge(f"{name}{suffix}", text, ["role"], registry=registry).labels(self._label).set_function(read)
        transport = Gauge(f"{name}transport_info", "How tensors move", ["role", "mode"], registry=registry)
        transport.labels(self._label, pool.mode).set(1)
        for suffix, text, value in (
            (
                "bytes_per_second",
                "Of a large pull of this worker's from its own pool, at its start",
                proof.bytes_per_second,
            ),
            ("seconds", "Of a small pull of this worker's from its own pool, at its start", proof.seconds),
        ):
            Gauge(f"{name}self_pull_{suffix}", text, ["role"], registry=registry).labels(self._label).set(value)

    def set_peer_pull(self, stage: str, bytes_per_second: float) -> None:
        """A peer that makes a stage's outputs was pulled from, to try the way."""
        self.peer_pull.labels(self._label, stage).set(bytes_per_second)

    def forward(self, requests: int, seconds: float) -> None:
        """A forward was made."""
        self.forward_requests.labels(self._label).observe(requests)
        self.forward_duration.labels(self._label).observe(seconds)

    def set_connected(self, connected: bool) -> None:
        self.connected.labels(self._label).set(connected)

    def set_standing(self, seconds: float) -> None:
        self.standing.labels(self._label).set(seconds)

    def set_download(self, done: int, size: int) -> None:
        self.download_bytes.labels(self._label).set(done)
        self.download_size.labels(self._label).set(size)

    def download_paused(self) -> None:
        self.download_pauses.labels(self._label).inc()

    def set_model_load(self, seconds: float) -> None:
        self.model_load.labels(self._label).set(seconds)

    def render(self) -> bytes:
        return generate_latest(self.registry)
