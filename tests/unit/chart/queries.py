"""What PromQL queries ask for, and what the three kinds of process tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import reduce
from typing import Any

import promql_parser as promql
from prometheus_client import CollectorRegistry

from diffusion_operator.metrics import Metrics as OperatorMetrics
from diffusion_operator.reconcile.queue import Queue
from diffusion_operator.render import names
from diffusion_router import core
from diffusion_router.metrics import Metrics as RouterMetrics
from diffusion_router.peers.dispatch import Dispatcher
from diffusion_router.peers.sessions import Sessions
from diffusion_router.peers.tickets import Tickets
from diffusion_worker.metrics import Metrics as WorkerMetrics
from diffusion_worker.transport import Pool, Proof
from diffusion_worker.transport.pool import PAGE, allocate
from diffusionpipeline.words import Stage

TARGET = frozenset({"namespace", "pod", "job", "instance", "container", "endpoint"})
"""Labels that the Prometheus operator puts on whatever it scrapes from a pod."""

_PARTS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}

Told = dict[str, frozenset[str]]
"""Labels by name of metric."""


class Wrong(Exception):
    """A query that can never find what it asks for."""


class _NoJobs:
    def parameters(self, job_id: str) -> None:
        return None


def told_by_operators() -> Told:
    metrics = OperatorMetrics(concurrency=8, host="api", lease="lease")
    metrics.collect_from(Queue(clock=lambda: 0.0), list)
    return _told(metrics.registry, TARGET)


def told_by_pipelines() -> Told:
    worker = WorkerMetrics("encoder", [Stage.ENCODE])
    worker.watch(Pool(allocate(PAGE), incarnation="first", mode="memory", url="memory://x", slots=1), Proof(1e9, 1e-4))
    router = RouterMetrics()
    dispatcher = Dispatcher(core.Core(core.Policy(), epoch="1", now=0))
    router.watch(dispatcher, Sessions(dispatcher, _NoJobs(), Tickets(b""), router))
    target = TARGET | {re.sub(r"[^a-zA-Z0-9]", "_", label) for label in (names.PIPELINE_LABEL, names.ROLE_LABEL)}
    return _told(worker.registry, target) | _told(router.registry, target)


def _told(registry: CollectorRegistry, target: frozenset[str]) -> Told:
    found: Told = {}
    for collector in list(registry._collector_to_names):
        for metric in collector.collect():
            # Neither kind of metric shows a label before it has a value.
            labels = frozenset(getattr(collector, "_labelnames", getattr(metric, "_labelnames", ()))) | target
            for suffix in _PARTS.get(metric.type, ("",)):
                found[metric.name + suffix] = labels | {"le"} if suffix == "_bucket" else labels
    return found


def selectors(query: str) -> Iterator[promql.VectorSelector]:
    yield from _selectors(promql.parse(query))


def _selectors(expression: Any) -> Iterator[promql.VectorSelector]:
    match expression:
        case promql.VectorSelector():
            yield expression
        case promql.MatrixSelector():
            yield expression.vector_selector
        case promql.Call():
            for argument in expression.args:
                yield from _selectors(argument)
        case promql.BinaryExpr():
            yield from _selectors(expression.lhs)
            yield from _selectors(expression.rhs)
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from _selectors(expression.expr)


def labels(query: str, told: Told) -> frozenset[str]:
    """The labels of what a query finds. Wrong, if it asks for a metric or a label that is not told."""
    return _labels(promql.parse(query), told) or frozenset()


def _labels(expression: Any, told: Told) -> frozenset[str] | None:
    """None: a number, which has no labels."""
    match expression:
        case promql.VectorSelector():
            if expression.name not in told:
                raise Wrong(f"no process tells {expression.name}")
            found = told[expression.name]
            _demand({matcher.name for matcher in expression.matchers.matchers}, found, expression)
            return found
        case promql.MatrixSelector():
            return _labels(expression.vector_selector, told)
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            return _labels(expression.expr, told)
        case promql.AggregateExpr():
            found = _labels(expression.expr, told) or frozenset()
            by = frozenset(expression.modifier.labels) if expression.modifier else frozenset()
            _demand(by, found, expression)
            return by
        case promql.Call():
            given = [part for part in (_labels(argument, told) for argument in expression.args) if part is not None]
            if expression.func.name == "vector":
                return frozenset()
            if expression.func.name == "histogram_quantile":
                _demand({"le"}, given[0], expression)
                return given[0] - {"le"}
            return reduce(frozenset.union, given) if given else None
        case promql.BinaryExpr():
            return _of_two(expression, told)
    return None


def _of_two(expression: promql.BinaryExpr, told: Told) -> frozenset[str] | None:
    left, right = _labels(expression.lhs, told), _labels(expression.rhs, told)
    if left is None or right is None:
        return right if left is None else left
    matching = expression.modifier.matching if expression.modifier else None
    if matching is not None:
        _demand(set(matching.labels), left & right, expression)
    elif left != right and " or vector(" not in str(expression):
        raise Wrong(f"{expression}: {sorted(left ^ right)} only on one side, so nothing matches")
    return left


def _demand(wanted: set[str] | frozenset[str], found: frozenset[str], expression: Any) -> None:
    if missing := set(wanted) - found:
        raise Wrong(f"{expression.prettify()}: no label {', '.join(sorted(missing))}")
