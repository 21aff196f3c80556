"""Dashboards and alerts ask for metrics, labels and values that operator, routers and workers really tell."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from diffusion_operator.api import load_pipeline
from diffusion_operator.cluster.client import SILENCE_SECONDS
from diffusion_operator.cluster.reflector import ABSENT_SECONDS, LONGEST_BACKOFF, UNMARKED_WATCH_SECONDS
from diffusion_operator.cluster.watching import STREAM_SECONDS
from diffusion_operator.metrics import CONTROLLER, RESTARTS
from diffusion_operator.render import render as pipeline_children
from diffusion_operator.status import reasons
from diffusionpipeline.v1 import job_pb2
from unit.chart import queries
from unit.chart.charts import CHART, EVERYTHING, NAMESPACE, PROMETHEUS, Object, merged, render

BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((CHART / "dashboards").glob("*.json"))}
RENDERED = render(EVERYTHING, apis=PROMETHEUS)
ALERTS = {rule["alert"]: rule for group in RENDERED.one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]}
PIPELINE = {
    "apiVersion": "diffusion-operator.dev/v1alpha1",
    "kind": "DiffusionPipeline",
    "metadata": {"name": "digits"},
}
STATUSES = {
    name.removeprefix("JOB_STATUS_").lower()
    for name, number in job_pb2.JobStatus.items()
    if number not in (job_pb2.JOB_STATUS_QUEUED, job_pb2.JOB_STATUS_IN_PROGRESS)
}

VALUES: dict[tuple[str, str], set[str]] = {
    ("diffusion_pipeline_condition", "type"): set(reasons.CONDITIONS),
    ("diffusion_pipeline_condition", "status"): {"True", "False", "Unknown"},
    ("diffusion_pipeline_role_replicas", "state"): {"desired", "ready", "available", "updated"},
    ("diffusion_router_requests_total", "status"): STATUSES,
    ("diffusion_router_request_duration_seconds_bucket", "status"): STATUSES,
    ("diffusion_router_targets_total", "met"): {"true", "false"},
    ("diffusion_worker_tasks_total", "outcome"): {"done"},
    ("diffusion_operator_watch_restarts_total", "reason"): set(RESTARTS),
    ("rest_client_requests_total", "method"): {"GET"},
    ("leader_election_master_status", "name"): {"diffusion-diffusion-operator"},
}
"""What may be asked of labels that have few values; `controller`, `name`, `job` and `namespace` are below."""


@pytest.fixture(scope="module")
def told() -> queries.Told:
    return queries.told_by_operators() | queries.told_by_pipelines()


def panels(board: Object) -> Iterator[Object]:
    return (panel for panel in board["panels"] if panel["type"] != "row")


def plain(query: str) -> str:
    """As Prometheus gets it from Grafana."""
    return query.replace("$__rate_interval", "1m").replace("$namespace", "paint").replace("$pipeline", "digits")


def targets() -> Iterator[Any]:
    for name, board in BOARDS.items():
        for panel in panels(board):
            for target in panel["targets"]:
                yield pytest.param(target, id=f"{name}: {panel['title']} {target['refId']}")


@pytest.mark.parametrize("target", list(targets()))
def test_a_panel_asks_for_what_is_told(target: Object, told: queries.Told) -> None:
    found = queries.labels(plain(target["expr"]), told)
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= found


@pytest.mark.parametrize("alert", ALERTS.values(), ids=ALERTS)
def test_an_alert_asks_for_what_is_told(alert: Object, told: queries.Told) -> None:
    found = queries.labels(alert["expr"], told)
    texts = " ".join(alert["annotations"].values())
    assert set(re.findall(r"\$labels\.(\w+)", texts)) <= found
    assert alert["labels"]["severity"] in {"warning", "critical"}
    assert alert["annotations"].keys() == {"summary", "description"}
    assert "\n" not in texts


def test_a_watch_counts_as_stuck_long_after_a_quiet_one_was_heard_again() -> None:
    quiet = max(SILENCE_SECONDS, STREAM_SECONDS, ABSENT_SECONDS, *UNMARKED_WATCH_SECONDS)
    longest = re.search(r"> (\d+)$", ALERTS["DiffusionOperatorWatchStuck"]["expr"])
    assert longest is not None
    # A pod that was not answered at once, or is scraped a minute later, is well too.
    assert int(longest[1]) >= 2 * quiet + LONGEST_BACKOFF


def test_labels_are_compared_with_values_that_they_have() -> None:
    expressions = [plain(target.values[0]["expr"]) for target in targets()] + [rule["expr"] for rule in ALERTS.values()]
    for expression in expressions:
        for selector in queries.selectors(expression):
            for matcher in selector.matchers.matchers:
                assert matcher.value in _values(selector.name, matcher.name), expression


def _values(metric: str | None, label: str) -> set[str]:
    if metric is not None and (metric, label) in VALUES:
        return VALUES[metric, label]
    if label in ("controller", "name"):
        return {CONTROLLER}
    return {
        "namespace": {"paint", NAMESPACE},
        "diffusion_operator_dev_pipeline": {"digits"},
        "job": {"diffusion-operator"},
    }[label]


def test_a_query_for_what_nobody_tells_would_be_found_out(told: queries.Told) -> None:
    for query, complaint in {
        "diffusion_router_request_total": "no process tells diffusion_router_request_total",
        "sum by (rolle) (diffusion_router_peers)": "no label rolle",
        'diffusion_router_peers{stat="ready"}': "no label stat",
        "histogram_quantile(0.9, sum by (role) (rate(diffusion_router_stage_queue_seconds_bucket[5m])))": "no label le",
        "diffusion_pipeline_info and on (role) diffusion_router_peers": "no label role",
        "diffusion_router_peers - diffusion_router_inflight_requests": "'role', 'state'",
    }.items():
        with pytest.raises(queries.Wrong, match=complaint):
            queries.labels(query, told)


def test_every_metric_of_ours_is_shown_or_known_not_to_be(told: queries.Told) -> None:
    shown = {
        selector.name for target in targets() for selector in queries.selectors(plain(target.values[0]["expr"]))
    } | {variable["definition"].partition("(")[2].partition(",")[0].partition("{")[0] for variable in _variables()}
    hidden = {
        name
        for name in told
        if name.startswith("diffusion_") and not {name, re.sub("_(sum|count|bucket)$", "_bucket", name)} & shown
    }
    assert {name for name in hidden if not name.endswith("_created")} == {
        "diffusion_operator_build_info",
        "diffusion_worker_build_info",
        # Workers tell the same of themselves, at once.
        "diffusion_router_pool_bytes",
        "diffusion_router_pool_used_bytes",
        "diffusion_router_slots_used",
        "diffusion_router_steps_total",
        "diffusion_router_transfer_bytes_total",
        "diffusion_router_transfer_duration_seconds_bucket",
        "diffusion_router_transfer_duration_seconds_count",
        "diffusion_router_transfer_duration_seconds_sum",
        "diffusion_worker_stage_duration_seconds_bucket",
        "diffusion_worker_stage_duration_seconds_count",
        "diffusion_worker_stage_duration_seconds_sum",
        "diffusion_router_outputs",
        # Their bytes are shown.
        "diffusion_router_conditioning_cached_outputs",
        # Of a worker's start: docs/rdma.md asks for them.
        "diffusion_worker_self_pull_bytes_per_second",
        "diffusion_worker_self_pull_seconds",
        "diffusion_worker_peer_pull_bytes_per_second",
        # Of the few pipelines that have adapters: docs/adapters.md says what to ask of them.
        "diffusion_router_adapter_requests_total",
        "diffusion_router_adapter_loads_total",
        "diffusion_router_adapter_load_seconds_total",
        # For who looks why versions do not understand each other.
        "diffusion_router_ignored_reports_total",
    }


def _variables() -> list[Object]:
    return [item for board in BOARDS.values() for item in board["templating"]["list"] if item["type"] == "query"]


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_a_dashboard_fits_its_grid(board: Object) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_a_dashboard_asks_the_data_source_that_is_chosen_in_it(board: Object) -> None:
    text = json.dumps(board)
    assert board["templating"]["list"][0]["type"] == "datasource"
    assert text.count('"uid": "${datasource}"') == text.count('"datasource": {')


def test_dashboards_come_as_they_are_and_are_found_by_grafana() -> None:
    found = {}
    for item in RENDERED.of("ConfigMap", "dashboards"):
        assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
        ((file, text),) = item["data"].items()
        found[file.removeprefix("diffusion-").removesuffix(".json")] = json.loads(text)
    assert found == BOARDS


@pytest.mark.parametrize("missing", PROMETHEUS)
def test_what_the_cluster_does_not_serve_is_not_made(missing: str) -> None:
    kind = missing.rpartition("/")[2]
    assert render(EVERYTHING, apis=[api for api in PROMETHEUS if api != missing]).of(kind) == []
    assert RENDERED.of(kind) != []


def test_nothing_is_monitored_unasked() -> None:
    kinds = {item["kind"] for item in render(apis=PROMETHEUS).objects}
    assert not kinds & {"ServiceMonitor", "PodMonitor", "PrometheusRule", "ConfigMap"}


@pytest.mark.parametrize(
    ("kind", "endpoints"), [("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints")]
)
def test_the_operator_is_scraped_at_its_named_port(kind: str, endpoints: str) -> None:
    values = {"monitoring": {"operator": {"kind": kind, "interval": "15s", "labels": {"release": "prometheus"}}}}
    rendered = render(values, apis=PROMETHEUS)
    monitor = rendered.one(kind)
    (endpoint,) = monitor["spec"][endpoints]
    # Metrics of pipelines tell the pipeline's namespace, which must not become exported_namespace.
    assert endpoint == {"port": "http", "path": "/metrics", "honorLabels": True, "interval": "15s"}
    scraped = rendered.one("Service")["metadata"] if kind == "ServiceMonitor" else rendered.pod["metadata"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= scraped["labels"].items()
    assert scraped["labels"][monitor["spec"]["jobLabel"]] == "diffusion-operator"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_pods_of_pipelines_are_scraped_as_by_the_monitor_of_a_single_pipeline() -> None:
    """Dashboards and alerts are the same for both."""
    monitor = RENDERED.one("PodMonitor")["spec"]
    document = {**PIPELINE, "spec": {"model": {"source": "Bundled"}, "monitoring": {"podMonitor": True}}}
    (single,) = (child for child in pipeline_children(load_pipeline(document)) if child["kind"] == "PodMonitor")
    assert monitor["podTargetLabels"] == single["spec"]["podTargetLabels"]
    assert sorted(endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]) == sorted(
        endpoint["port"] for endpoint in single["spec"]["podMetricsEndpoints"]
    )


def test_the_pods_of_all_pipelines_that_are_served_are_scraped() -> None:
    monitor = RENDERED.one("PodMonitor")["spec"]
    children = pipeline_children(load_pipeline({**PIPELINE, "spec": {"model": {"source": "Bundled"}}}))
    pods = [child["spec"]["template"] for child in children if child["kind"] == "StatefulSet"]
    assert pods
    for pod in pods:
        assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert monitor["namespaceSelector"] == {"any": True}
    some = render(merged(EVERYTHING, {"watchNamespaces": ["paint"]}), apis=PROMETHEUS)
    assert some.one("PodMonitor")["spec"]["namespaceSelector"] == {"matchNames": ["paint"]}


def test_a_lost_lease_is_an_alert_only_where_there_is_one() -> None:
    assert "DiffusionOperatorHasNoLeader" in ALERTS
    single = render(merged(EVERYTHING, {"replicas": 1, "leaderElection": {"enabled": False}}), apis=PROMETHEUS)
    assert "DiffusionOperatorHasNoLeader" not in single.text
