"""What clusters put before their API server, for one namespace: policies that refuse, and webhooks that change.

Policies are the API server's own (ValidatingAdmissionPolicy). A webhook is served by the test, since the API server
of the oldest Kubernetes has nothing else that changes objects.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from testbed.controlplane.client import JSON, Refused
from testbed.controlplane.cluster import Cluster

_API: Final = "/apis/admissionregistration.k8s.io/v1"
_POLICIES: Final = f"{_API}/validatingadmissionpolicies"
_BINDINGS: Final = f"{_API}/validatingadmissionpolicybindings"
_WEBHOOKS: Final = f"{_API}/mutatingwebhookconfigurations"
_HOST: Final = "127.0.0.1"
_ANYTHING: Final = {"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}

Patch = list[Mapping[str, Any]]
"""JSON patch."""


@contextlib.contextmanager
def refusing(
    cluster: Cluster,
    namespace: str,
    name: str,
    validations: Sequence[Mapping[str, str]],
    *,
    resources: Sequence[str] = ("*",),
    variables: Sequence[Mapping[str, str]] = (),
) -> Iterator[None]:
    """Of these resources (of any group), only what these rules (CEL) let be is made, or changed, in the namespace."""
    full = f"{name}.{namespace}"
    rule = {**_ANYTHING, "resources": list(resources), "operations": ["CREATE", "UPDATE"]}
    policy = {
        "metadata": {"name": full},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule]},
            "validations": list(validations),
            "variables": list(variables),
        },
    }
    binding = {
        "metadata": {"name": full},
        "spec": {
            "policyName": full,
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": _only(namespace)},
        },
    }
    cluster.api.post(_POLICIES, policy)
    cluster.api.post(_BINDINGS, binding)
    try:
        yield
    finally:
        cluster.api.delete(f"{_BINDINGS}/{full}")
        cluster.api.delete(f"{_POLICIES}/{full}")


@contextlib.contextmanager
def changing(
    cluster: Cluster, namespace: str, name: str, change: Callable[[JSON], Patch], *, group: str, resource: str
) -> Iterator[None]:
    """Each object of this resource is changed so before it is made, or changed, in the namespace."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
            patch = base64.b64encode(json.dumps(change(request["object"])).encode()).decode()
            response = {"uid": request["uid"], "allowed": True, "patchType": "JSONPatch", "patch": patch}
            review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
            body = json.dumps(review).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """The base class writes each request to stderr."""

    server = ThreadingHTTPServer((_HOST, 0), Handler)
    server.daemon_threads = True
    server.socket = cluster.server_tls(f"webhook-{name}-{namespace}", _HOST).wrap_socket(
        server.socket, server_side=True
    )
    thread = threading.Thread(target=server.serve_forever, name=f"webhook {name}", daemon=True)
    thread.start()
    full = f"{name}.{namespace}"
    rule = {**_ANYTHING, "apiGroups": [group], "resources": [resource], "operations": ["CREATE", "UPDATE"]}
    webhook = {
        "name": f"{name}.test.local",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "reinvocationPolicy": "IfNeeded",
        "namespaceSelector": _only(namespace),
        "rules": [rule],
        "clientConfig": {
            "url": f"https://{_HOST}:{server.server_address[1]}/",
            "caBundle": base64.b64encode(cluster.authority.certificate.file.read_bytes()).decode(),
        },
    }
    cluster.api.post(_WEBHOOKS, {"metadata": {"name": full}, "webhooks": [webhook]})
    try:
        yield
    finally:
        cluster.api.delete(f"{_WEBHOOKS}/{full}")
        server.shutdown()
        server.server_close()
        thread.join()


def until_acts(cluster: Cluster, path: str, probe: JSON, acts: Callable[[JSON | Refused], bool]) -> None:
    """Waits until a dry run of making `probe` shows that what was put before the API server acts."""

    def answered() -> bool:
        try:
            answer: JSON | Refused = cluster.api.post(path, probe, dryRun="All")
        except Refused as refused:
            answer = refused
        return acts(answer)

    cluster.until(answered, 60, f"admission acts on {path}")


def _only(namespace: str) -> JSON:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
