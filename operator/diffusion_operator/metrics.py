"""All metrics of the operator.

Reconcile, queue, client and leader metrics have controller-runtime's names and meanings, so that dashboards and alerts
made for other operators work. What can be read off the queue and the pipelines' status is computed when scraped: a
pipeline that is gone leaves no series behind. `controller` and `name` are always "diffusionpipeline".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from itertools import product
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from diffusion_operator.cluster.kinds import CHILDREN, EVENT, POD
from diffusion_operator.reconcile.queue import Queue
from diffusion_operator.status.report import PipelineReport

CONTROLLER: Final = "diffusionpipeline"
# A reconcile that changes nothing takes a millisecond, one that makes everything as long as a dozen requests.
_RECONCILE: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_REQUEST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# As in controller-runtime: from 10 ns on, tenfold, to 1,000 s.
_QUEUE: Final = tuple(10.0**power for power in range(-8, 4))


RESTARTS: Final = ("broken", "refused", "expired")


class Metrics:
    content_type = CONTENT_TYPE_LATEST

    def __init__(self, *, concurrency: int, host: str, lease: str) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self._host = host
        ProcessCollector(registry=registry)
        self.reconciles = Counter(
            "controller_runtime_reconcile_total",
            "Reconciles by result: success, requeue_after (to be looked at again later), error",
            ["controller", "result"],
            registry=registry,
        )
        self._errors = Counter(
            "controller_runtime_reconcile_errors_total", "Reconciles that failed", ["controller"], registry=registry
        ).labels(CONTROLLER)
        self._seconds = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "Time of a reconcile",
            ["controller"],
            buckets=_RECONCILE,
            registry=registry,
        ).labels(CONTROLLER)
        maximum = Gauge(
            "controller_runtime_max_concurrent_reconciles",
            "How many reconciles may run at once",
            ["controller"],
            registry=registry,
        )
        maximum.labels(CONTROLLER).set(concurrency)
        for result in ("success", "requeue_after", "error"):
            self.reconciles.labels(CONTROLLER, result)
        self._adds = Counter("workqueue_adds_total", "Keys added", ["name"], registry=registry).labels(CONTROLLER)
        self._waits = Histogram(
            "workqueue_queue_duration_seconds", "A key's wait for a worker", ["name"], buckets=_QUEUE, registry=registry
        ).labels(CONTROLLER)
        self._works = Histogram(
            "workqueue_work_duration_seconds", "A worker's time for a key", ["name"], buckets=_QUEUE, registry=registry
        ).labels(CONTROLLER)
        self._retries = Counter(
            "workqueue_retries_total", "Keys added again after a failure", ["name"], registry=registry
        ).labels(CONTROLLER)
        self._requests = Counter(
            "rest_client_requests_total",
            "Requests to the API server by HTTP status (<error>: no answer)",
            ["code", "method", "host"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "rest_client_request_duration_seconds",
            "Time until the API server answered",
            ["verb", "host"],
            buckets=_REQUEST,
            registry=registry,
        )
        self._leading = Gauge(
            "leader_election_master_status", "1 while this process holds the Lease", ["name"], registry=registry
        ).labels(lease)
        self._heard = Gauge(
            "diffusion_operator_watch_last_event_timestamp_seconds",
            "When a watch last told anything: an event, a bookmark, that a stream is open, that there is no such kind",
            ["resource"],
            registry=registry,
        )
        self._restarts = Counter(
            "diffusion_operator_watch_restarts_total",
            "Watches taken up again, because the stream was broken, refused or expired (too old: lists anew)",
            ["resource", "reason"],
            registry=registry,
        )
        self._reverted = Counter(
            "diffusion_operator_reverted_children_total",
            "Children that were changed by hand and put back",
            ["kind"],
            registry=registry,
        )
        # Prometheus sees no increase in a series that begins with its first event.
        for kind in CHILDREN:
            self._reverted.labels(kind.kind)
        for kind, reason in product((*CHILDREN, POD, EVENT), RESTARTS):
            self._restarts.labels(kind.plural, reason)
        build = Gauge("diffusion_operator_build_info", "Always 1", ["version"], registry=registry)
        build.labels(version("diffusion-operator")).set(1)

    # The queue's observer

    def added(self) -> None:
        self._adds.inc()

    def started(self, waited: float) -> None:
        self._waits.observe(waited)

    def ended(self, worked: float) -> None:
        self._works.observe(worked)
        self._seconds.observe(worked)

    def retried(self) -> None:
        self._retries.inc()

    # Others'

    def reconciled(self, result: str) -> None:
        """success, requeue_after or error."""
        self.reconciles.labels(CONTROLLER, result).inc()
        if result == "error":
            self._errors.inc()

    def answered(self, method: str, code: str, seconds: float) -> None:
        self._requests.labels(code, method, self._host).inc()
        self._request_seconds.labels(method, self._host).observe(seconds)

    def leading(self, leading: bool) -> None:
        self._leading.set(leading)

    def heard(self, resource: str) -> None:
        self._heard.labels(resource).set_to_current_time()

    def restarted(self, resource: str, reason: str) -> None:
        """One of RESTARTS. That a stream came to its time, or that an optional kind is absent, is no reason."""
        self._restarts.labels(resource, reason).inc()

    def reverted(self, kind: str) -> None:
        self._reverted.labels(kind).inc()

    def collect_from(self, queue: Queue, pipelines: Callable[[], Iterable[PipelineReport]]) -> None:
        """What is to be computed at each scrape."""
        self.registry.register(_QueueCollector(queue))
        self.registry.register(_PipelineCollector(pipelines))

    def render(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)


class _QueueCollector(Collector):
    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def collect(self) -> Iterable[Metric]:
        queue = self._queue
        for name, text, label, value in (
            ("controller_runtime_active_workers", "Reconciles that run", "controller", queue.working),
            ("workqueue_depth", "Keys that wait for a worker", "name", len(queue)),
            ("workqueue_unfinished_work_seconds", "Running reconciles' time so far", "name", queue.unfinished_working),
            (
                "workqueue_longest_running_processor_seconds",
                "The oldest running reconcile's time so far",
                "name",
                queue.longest_working,
            ),
        ):
            family = GaugeMetricFamily(name, text, labels=[label])
            family.add_metric([CONTROLLER], value)
            yield family


class _PipelineCollector(Collector):
    def __init__(self, pipelines: Callable[[], Iterable[PipelineReport]]) -> None:
        self._pipelines = pipelines

    def collect(self) -> Iterable[Metric]:
        info = GaugeMetricFamily(
            "diffusion_pipeline_info",
            "Always 1; transport is what the workers report",
            labels=["namespace", "name", "model", "transport"],
        )
        condition = GaugeMetricFamily(
            "diffusion_pipeline_condition",
            "1 for the status that a condition has",
            labels=["namespace", "name", "type", "status"],
        )
        replicas = GaugeMetricFamily(
            "diffusion_pipeline_role_replicas",
            "Pods of a role: desired, ready, available, updated",
            labels=["namespace", "name", "role", "state"],
        )
        for pipeline in self._pipelines():
            place = [pipeline.namespace, pipeline.name]
            info.add_metric([*place, pipeline.model, pipeline.transport], 1)
            for found in pipeline.conditions:
                condition.add_metric([*place, *found], 1)
            for role, state, count in pipeline.replicas:
                replicas.add_metric([*place, role, state], count)
        yield from (info, condition, replicas)
