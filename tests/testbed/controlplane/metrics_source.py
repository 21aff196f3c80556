"""A metric whose value the test sets, for a real HorizontalPodAutoscaler to scale by.

It is an extension API server (`external.metrics.k8s.io`) as KEDA or Prometheus' adapter would be, registered with the
real one, which passes the autoscaler's questions on to it.
"""

from __future__ import annotations

import base64
import datetime
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from testbed.controlplane.cluster import Cluster

_GROUP = "external.metrics.k8s.io"
_NAMESPACE = "kube-system"
_SERVICE = "metrics-source"
_ROOT = f"/apis/{_GROUP}/v1beta1"
_API_SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
_SERVICES = f"/api/v1/namespaces/{_NAMESPACE}/services"


class MetricsSource:
    """One at a time in a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._values: dict[str, float] = {}
        source = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                found = source._answer(self.path.split("?")[0])
                body = json.dumps(found or {}).encode()
                self.send_response(404 if found is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """The base class writes each request to stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        tls = cluster.server_tls(_SERVICE, f"{_SERVICE}.{_NAMESPACE}.svc")
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics source", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        # Of all kinds of Service this is the one by which the API server reaches a loopback address.
        spec = {"type": "ExternalName", "externalName": "localhost"}
        self._cluster.api.post(_SERVICES, {"metadata": {"name": _SERVICE}, "spec": spec})
        ca = base64.b64encode(self._cluster.authority.certificate.file.read_bytes()).decode()
        port = self._server.server_address[1]
        registration = {
            "metadata": {"name": f"v1beta1.{_GROUP}"},
            "spec": {
                "group": _GROUP,
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "caBundle": ca,
                "service": {"namespace": _NAMESPACE, "name": _SERVICE, "port": port},
            },
        }
        self._cluster.api.post(_API_SERVICES, registration)
        self._cluster.until(lambda: self._cluster.api.exists(_ROOT), 30, f"{_GROUP} is served")
        return self

    def __exit__(self, *_: object) -> None:
        # An API that is registered and does not answer keeps every namespace from being deleted.
        self._cluster.api.delete(f"{_API_SERVICES}/v1beta1.{_GROUP}")
        self._cluster.api.delete(f"{_SERVICES}/{_SERVICE}")
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def set(self, metric: str, value: float) -> None:
        """The metric's value in every namespace; without one the metric does not exist."""
        self._values[metric] = value

    def _answer(self, path: str) -> dict[str, Any] | None:
        if path == _ROOT:
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{_GROUP}/v1beta1", "resources": []}
        metric = path.rpartition("/")[2]
        if not path.startswith(f"{_ROOT}/namespaces/") or metric not in self._values:
            return None
        value = {
            "metricName": metric,
            "metricLabels": {},
            "timestamp": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "value": f"{round(self._values[metric] * 1000)}m",
        }
        return {"kind": "ExternalMetricValueList", "apiVersion": f"{_GROUP}/v1beta1", "metadata": {}, "items": [value]}
