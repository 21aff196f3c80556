"""All metrics of the router.

Counters and histograms are fed by the job service; what can be read off the core (queues, peers, pools) is computed
when scraped, so nothing stale is ever shown. Labels have few values: role, status, kind, state.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client import Counter as PrometheusCounter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from diffusion_router import core
from diffusion_router.peers import messages
from diffusion_router.peers.dispatch import Dispatcher
from diffusion_router.peers.sessions import Sessions
from diffusionpipeline.v1 import job_pb2, stage_pb2
from diffusionpipeline.words import MAX_ADAPTERS, word

# From a cached millisecond stage to a long video.
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
# Around 1, which is what was predicted.
_RATIOS: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 2, 3, 5, 10)
_PARKS: Final = tuple(reason.value for reason in core.ParkReason)
_ROLES: Final = {stage: word(stage_pb2.Role, stage) for stage in core.Stage}
# How the core ends jobs that it does not complete.
_FAILURES: Final = (
    *(core.FailureKind.INVALID_REQUEST, core.FailureKind.MODEL_ERROR, core.FailureKind.TOO_LARGE),
    *(core.FailureKind.RETRIES_EXHAUSTED, core.FailureKind.POISON, core.FailureKind.DEADLINE),
)
_ENDS: Final = (
    ("completed", ""),
    ("cancelled", "cancelled"),
    *(("failed", kind.name.lower()) for kind in _FAILURES),
)


class Metrics:
    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = PrometheusCounter(
            "diffusion_router_requests", "Jobs that ended", ["status", "kind"], registry=self.registry
        )
        self.rejected = PrometheusCounter(
            "diffusion_router_rejected_requests", "Requests answered 429", ["reason"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "diffusion_router_request_duration_seconds",
            "From a job's acceptance to its end",
            ["status"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "diffusion_router_stage_duration_seconds",
            "Compute of one stage, as its worker measured it",
            ["role"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "diffusion_router_stage_queue_seconds",
            "A job's wait for a peer of the role",
            ["role"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.transfer_seconds = Histogram(
            "diffusion_router_transfer_duration_seconds",
            "Pulling one input, as the puller measured it",
            ["role"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.transfer_bytes = PrometheusCounter(
            "diffusion_router_transfer_bytes", "Bytes pulled from peer to peer", ["role"], registry=self.registry
        )
        self.steps = PrometheusCounter(
            "diffusion_router_steps", "Denoising steps of finished stages", registry=self.registry
        )
        self.lease_expirations = PrometheusCounter(
            "diffusion_router_peer_lease_expirations", "Peers lost because their lease ran out", registry=self.registry
        )
        self.kills = PrometheusCounter(
            "diffusion_router_jobs_interrupted", "Times a worker was lost while it ran a job", registry=self.registry
        )
        self.ignored = PrometheusCounter(
            "diffusion_router_ignored_reports",
            "Reports of workers, or numbers in them, that were passed over: unknown kinds, impossible numbers",
            ["reason"],
            registry=self.registry,
        )
        self.targets = PrometheusCounter(
            "diffusion_router_targets",
            "Jobs by whether they ended within their target, the request's or the policy's",
            ["priority", "met"],
            registry=self.registry,
        )
        self.prediction_ratio = Histogram(
            "diffusion_router_prediction_ratio",
            "Seconds that a request took to complete over those that were predicted when it was accepted",
            buckets=_RATIOS,
            registry=self.registry,
        )
        self.parks = PrometheusCounter(
            "diffusion_router_parks",
            "Denoisings told to park: to give way to another job, or since their peer leaves",
            ["reason"],
            registry=self.registry,
        )
        self.copies = PrometheusCounter(
            "diffusion_router_copies",
            "Outputs that others were told to keep: of peers that leave, and checkpoints of what goes on",
            registry=self.registry,
        )
        self.adapter_requests = PrometheusCounter(
            "diffusion_router_adapter_requests",
            "Jobs with LoRA adapters that ended, by how many they named",
            ["adapters"],
            registry=self.registry,
        )
        self.adapter_loads = PrometheusCounter(
            "diffusion_router_adapter_loads", "Adapters that workers loaded for requests", registry=self.registry
        )
        self.adapter_load_seconds = PrometheusCounter(
            "diffusion_router_adapter_load_seconds", "How long workers loaded them", registry=self.registry
        )
        build = Gauge("diffusion_router_build_info", "Always 1", ["version"], registry=self.registry)
        build.labels(version("diffusion-operator")).set(1)
        self._begin()

    def _begin(self) -> None:
        """Prometheus sees no increase in a series that begins with its first event."""
        for status, kind in _ENDS:
            self.requests.labels(status, kind)
            self.request_seconds.labels(status)
        for reason in ("queue_full", "too_late"):
            self.rejected.labels(reason)
        for count in range(1, MAX_ADAPTERS + 1):
            self.adapter_requests.labels(str(count))
        for priority in core.Priority:
            for met in ("true", "false"):
                self.targets.labels(priority.name.lower(), met)
        for reason in _PARKS:
            self.parks.labels(reason)
        for reason in ("unknown", "impossible"):
            self.ignored.labels(reason)
        for stage, role in _ROLES.items():
            self.queue_seconds.labels(role)
            self.stage_seconds.labels(role)
            if stage is not core.Stage.ENCODE:
                self.transfer_seconds.labels(role)
                self.transfer_bytes.labels(role)

    def watch(self, dispatcher: Dispatcher, sessions: Sessions) -> None:
        """Adds what is read off the core when scraped, and the events that only the core sees."""
        self._core = dispatcher.core
        self.registry.register(_CoreCollector(dispatcher, sessions))
        dispatcher.add_hands(self)

    def perform(self, action: messages.Action) -> None:
        match action:
            case core.PeerLost(reason="lease expired"):
                self.lease_expirations.inc()
            case core.JobKilled():
                self.kills.inc()
            case core.ParkTask():
                self.parks.labels(action.reason.value).inc()
            case core.Execute(copy=True):
                self.copies.inc()
            case core.JobEnded():
                self._compare_with_target(action)

    def passed_over(self, reason: str, count: int) -> None:
        """Reports, or numbers in them."""
        self.ignored.labels(reason).inc(count)

    def adapters_loaded(self, count: int, seconds: float) -> None:
        """How many were, and how long that took. Their names are no labels: there may be any number of them."""
        self.adapter_loads.inc(count)
        self.adapter_load_seconds.inc(seconds)

    def _compare_with_target(self, end: core.JobEnded[messages.Report]) -> None:
        job = self._core.jobs[end.job_id]
        due = job.due or (job.since + job.target if job.target else 0.0)
        if due and (end.status is core.JobStatus.COMPLETED or end.kind is core.FailureKind.DEADLINE):
            self.targets.labels(job.priority.name.lower(), str(self._core.now <= due).lower()).inc()

    def job_ended(self, job: job_pb2.Job, seconds: float, predicted: float | None = None) -> None:
        """seconds: since it was accepted; predicted: as many as they were thought to be then, if that was known."""
        status = word(job_pb2.JobStatus, job.status)
        kind = word(stage_pb2.FailureKind, job.failure.kind)
        self.requests.labels(status, kind if job.HasField("failure") else "").inc()
        self.request_seconds.labels(status).observe(seconds)
        if predicted and job.status == job_pb2.JOB_STATUS_COMPLETED:
            self.prediction_ratio.observe(seconds / predicted)
        if job.parameters.adapters:
            self.adapter_requests.labels(str(min(len(job.parameters.adapters), MAX_ADAPTERS))).inc()
        for stage in job.stages:
            # What another job's encoding took is counted there.
            if stage.HasField("timings") and not stage.shared:
                role = _ROLES[core.Stage(stage.stage)]
                self.queue_seconds.labels(role).observe(stage.queue_seconds)
                self.stage_seconds.labels(role).observe(stage.timings.compute_seconds)
                if stage.timings.transfer_bytes:
                    self.transfer_seconds.labels(role).observe(stage.timings.transfer_seconds)
                    self.transfer_bytes.labels(role).inc(stage.timings.transfer_bytes)
                self.steps.inc(stage.timings.steps)

    def render(self) -> bytes:
        return generate_latest(self.registry)


class _CoreCollector(Collector):
    def __init__(self, dispatcher: Dispatcher, sessions: Sessions) -> None:
        self._dispatcher = dispatcher
        self._sessions = sessions

    def collect(self) -> Iterable[Metric]:
        machine = self._dispatcher.core
        inflight = sum(jobs for state, jobs in machine.counts.items() if state.has_task)
        yield GaugeMetricFamily("diffusion_router_inflight_requests", "Jobs with a task under way", value=inflight)
        now = time.monotonic()
        wait = machine.predict(now).wait
        yield GaugeMetricFamily("diffusion_router_predicted_wait_seconds", "Of a job accepted now", value=wait)
        late = GaugeMetricFamily("diffusion_router_late_requests", "Jobs that wait and can no longer meet their target")
        late.add_metric([], sum(_is_late(job, now) for job in machine.jobs.values()))
        yield late
        queued = GaugeMetricFamily("diffusion_router_queued_requests", "Jobs that wait for a peer", labels=["role"])
        for stage, role in _ROLES.items():
            waiting = (state for state in core.JobState if state.stage is stage and not state.has_task)
            queued.add_metric([role], sum(machine.counts[state] for state in waiting))
        yield queued
        yield from self._conditioning(machine)
        yield from self._checkpoints(machine)
        yield from self._peers(machine)

    def _conditioning(self, machine: messages.Core) -> Iterable[Metric]:
        found = CounterMetricFamily(
            "diffusion_router_conditioning_lookups",
            "What jobs found that were to encode: an output to go on with, one to wait for, or neither",
            labels=["result"],
        )
        for result in core.Lookup:
            found.add_metric([result.value], machine.reuse.lookups[result])
        yield found
        evicted = CounterMetricFamily(
            "diffusion_router_conditioning_evictions",
            "Outputs of encoding that were kept for jobs to come and went, by why",
            labels=["reason"],
        )
        for reason in core.Eviction:
            evicted.add_metric([reason.value], machine.reuse.evictions[reason])
        yield evicted
        peers = machine.peers.values()
        outputs, nbytes = sum(len(peer.cached) for peer in peers), sum(peer.cached_bytes for peer in peers)
        yield GaugeMetricFamily(
            "diffusion_router_conditioning_cached_outputs",
            "Outputs of encoding that no job needs, kept for jobs to come",
            value=outputs,
        )
        yield GaugeMetricFamily(
            "diffusion_router_conditioning_cached_bytes", "Of workers' pools that these take", value=nbytes
        )

    def _checkpoints(self, machine: messages.Core) -> Iterable[Metric]:
        checkpoints = CounterMetricFamily(
            "diffusion_router_checkpoints",
            "Checkpoints of denoisings that go on: that another denoiser keeps, that were due and left out, and that "
            "denoisings which were lost went on from",
            labels=["outcome"],
        )
        for outcome in core.Outcome:
            checkpoints.add_metric([outcome.value], machine.saved.outcomes[outcome])
        yield checkpoints
        yield CounterMetricFamily(
            "diffusion_router_lost_steps",
            "Denoising steps that are known to have been made and are made again, since a worker was lost or failed",
            value=machine.saved.lost_steps,
        )

    def _peers(self, machine: messages.Core) -> Iterable[Metric]:
        states = Counter((role, peer.state.value) for peer in machine.peers.values() for role in _roles(peer))
        peers = GaugeMetricFamily("diffusion_router_peers", "Registered peers", labels=["role", "state"])
        for role in _ROLES.values():
            for state in core.PeerState:
                peers.add_metric([role, state.value], states[role, state.value])
        yield peers
        sums: dict[str, Counter[str]] = {
            "credits": Counter(),
            "outputs": Counter(),
            "pool_bytes": Counter(),
            "pool_used_bytes": Counter(),
            "slots_used": Counter(),
        }
        for peer in machine.peers.values():
            session = self._sessions.session(peer.incarnation)
            for role in _roles(peer):
                sums["credits"][role] += peer.credits
                sums["outputs"][role] += len(peer.outputs) - len(peer.cached)
                if session is not None:
                    sums["pool_bytes"][role] += session.register.pool.size
                    sums["pool_used_bytes"][role] += session.heartbeat.bytes_used
                    sums["slots_used"][role] += session.heartbeat.slots_used
        texts = {
            "credits": "Tasks that could be started now",
            "outputs": "Stage outputs that wait for their consumer",
            "pool_bytes": "Registered transfer memory",
            "pool_used_bytes": "Transfer memory in use, by the last heartbeats",
            "slots_used": "Slots in use, by the last heartbeats",
        }
        for name, counts in sums.items():
            family = GaugeMetricFamily(f"diffusion_router_{name}", texts[name], labels=["role"])
            for role in _ROLES.values():
                family.add_metric([role], counts[role])
            yield family


def _is_late(job: core.Job[messages.Report], now: float) -> bool:
    waits = not (job.state.has_task or job.state.status.ended)
    return waits and 0 < job.due < now + job.work


def _roles(peer: messages.Peer) -> list[str]:
    return [_ROLES[stage] for stage in sorted(peer.stages)]
