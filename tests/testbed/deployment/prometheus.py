"""A Prometheus server beside the cluster, which finds pods by Kubernetes' API as it does inside one."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from testbed.controlplane import programs
from testbed.controlplane.children import free_ports, spawn, tail
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster

SCRAPE_SECONDS = 1
READY_SECONDS = 60


@dataclass(frozen=True)
class Series:
    labels: dict[str, str]
    values: tuple[float, ...]
    """In the order of time, without those that are no number."""


class Prometheus:
    def __init__(self, cluster: Cluster, port: int, log: Path) -> None:
        self._cluster = cluster
        self._log = log
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False)

    def until(self, condition: Any, seconds: float, what: str) -> None:
        """As the cluster's, and shows what the server said last if it does not come true."""
        try:
            self._cluster.until(condition, seconds, what, longest_pause=1.0)
        except Exception as error:
            raise AssertionError(f"{error}\n{tail(self._log)}") from error

    def ready(self) -> bool:
        return self._http.get("/-/ready").status_code == 200

    def now(self) -> float:
        """The server's clock, as Unix time."""
        return float(self._get("query", query="time()")["result"][0])

    def query(self, expression: str) -> list[Series]:
        """What it says now."""
        found = self._get("query", query=expression)["result"]
        return [Series(item["metric"], _numbers([item["value"]])) for item in found]

    def history(self, expression: str, since: float) -> list[Series]:
        """What it said at every second since then (Unix time). Raises AssertionError for a wrong expression."""
        found = self._get("query_range", query=expression, start=since, end=self.now(), step=1)["result"]
        return [Series(item["metric"], _numbers(item["values"])) for item in found]

    def targets(self, job: str) -> list[JSON]:
        """What the scrape configuration of this name found, with labels, URL and health (up, down, unknown)."""
        return [target for target in self._get("targets")["activeTargets"] if target["scrapePool"] == job]

    def rules(self) -> dict[str, JSON]:
        """Alerting rules by name, with state, health and alerts."""
        return {rule["name"]: rule for group in self._get("rules")["groups"] for rule in group["rules"]}

    def _get(self, path: str, **query: object) -> Any:
        answer = self._http.get(f"/api/v1/{path}", params=query)  # type: ignore[arg-type]
        assert answer.status_code == 200, f"{path} {query}: {answer.text[:500]}"
        return answer.json()["data"]


@contextlib.contextmanager
def serving(cluster: Cluster, scrapes: Sequence[JSON], groups: Sequence[JSON] = ()) -> Iterator[Prometheus]:
    """With these scrape configurations, and these groups of rules. It ends with the thread that started it."""
    (port,) = free_ports(1)
    folder = cluster.folder / f"prometheus-{port}"
    folder.mkdir()
    rules, config, log = folder / "rules.yaml", folder / "config.yaml", folder / "log"
    rules.write_text(yaml.safe_dump({"groups": list(groups)}))
    timing = {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"}
    config.write_text(yaml.safe_dump({"global": timing, "rule_files": [str(rules)], "scrape_configs": list(scrapes)}))
    child = spawn(
        programs.prometheus(),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        log=log,
        environment={"PATH": os.defpath, "HOME": str(folder)},
    )
    try:
        prometheus = Prometheus(cluster, port, log)
        prometheus.until(lambda: child.poll() is not None or prometheus.ready(), READY_SECONDS, "Prometheus is ready")
        assert child.poll() is None, f"Prometheus ended with {child.returncode}: {tail(log)}"
        yield prometheus
    finally:
        child.kill()
        child.wait()


def discovery(kubeconfig: Path, role: str = "pod", namespaces: Sequence[str] = ()) -> JSON:
    """Kubernetes' service discovery; no namespaces: all of them."""
    some = {"namespaces": {"names": list(namespaces)}} if namespaces else {}
    return {"kubernetes_sd_configs": [{"role": role, "kubeconfig_file": str(kubeconfig), **some}]}


def by_annotations(job: str, kubeconfig: Path) -> JSON:
    """Pods that say so in prometheus.io annotations, as Prometheus' own Helm chart finds them (job kubernetes-pods)."""
    pod = "__meta_kubernetes_pod_"
    address = [f"{pod}annotation_prometheus_io_port", f"{pod}ip"]
    return {
        "job_name": job,
        **discovery(kubeconfig),
        "relabel_configs": [
            {"action": "keep", "source_labels": [f"{pod}annotation_prometheus_io_scrape"], "regex": "true"},
            _set("__metrics_path__", f"{pod}annotation_prometheus_io_path"),
            {**_set("__address__", *address), "regex": r"(\d+);((([0-9]+?)(\.|$)){4})", "replacement": "$2:$1"},
            {"action": "labelmap", "regex": f"{pod}label_(.+)"},
            _set("namespace", "__meta_kubernetes_namespace"),
            _set("pod", f"{pod}name"),
            {"action": "drop", "source_labels": [f"{pod}phase"], "regex": "Pending|Succeeded|Failed|Completed"},
        ],
    }


def by_monitor(job: str, monitor: JSON, kubeconfig: Path) -> list[JSON]:
    """One configuration for each endpoint of a PodMonitor or ServiceMonitor: the Prometheus operator's translation."""
    spec = monitor["spec"]
    of_pods = monitor["kind"] == "PodMonitor"
    endpoints = spec["podMetricsEndpoints" if of_pods else "endpoints"]
    return [
        {
            "job_name": f"{job}/{number}",
            **_where(monitor, kubeconfig),
            "honor_labels": endpoint.get("honorLabels", False),
            "metrics_path": endpoint["path"],
            "relabel_configs": list(_relabelling(spec, endpoint["port"], of_pods)),
        }
        for number, endpoint in enumerate(endpoints)
    ]


def _where(monitor: JSON, kubeconfig: Path) -> JSON:
    role = "pod" if monitor["kind"] == "PodMonitor" else "endpointslice"
    chosen = monitor["spec"].get("namespaceSelector", {})
    names = [] if chosen.get("any") else chosen.get("matchNames", [monitor["metadata"]["namespace"]])
    return discovery(kubeconfig, role, names)


def _relabelling(spec: JSON, port: str, of_pods: bool) -> Iterator[JSON]:
    own = "__meta_kubernetes_pod_label_" if of_pods else "__meta_kubernetes_service_label_"
    for label, value in spec["selector"]["matchLabels"].items():
        yield {"action": "keep", "source_labels": [own + _sanitized(label)], "regex": re.escape(value)}
    named = "__meta_kubernetes_pod_container_port_name" if of_pods else "__meta_kubernetes_endpointslice_port_name"
    yield {"action": "keep", "source_labels": [named], "regex": port}
    yield _set("namespace", "__meta_kubernetes_namespace")
    yield _set("pod", "__meta_kubernetes_pod_name")
    for label in spec.get("podTargetLabels", []):
        yield _set(_sanitized(label), f"__meta_kubernetes_pod_label_{_sanitized(label)}")
    yield _set("job", own + _sanitized(spec["jobLabel"]))


def _set(label: str, *sources: str) -> JSON:
    return {"source_labels": list(sources), "target_label": label, "regex": "(.+)"}


def _sanitized(label: str) -> str:
    return re.sub("[^a-zA-Z0-9_]", "_", label)


def _numbers(values: Sequence[tuple[float, str]]) -> tuple[float, ...]:
    return tuple(number for _, text in values if math.isfinite(number := float(text)))
