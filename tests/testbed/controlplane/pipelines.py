"""Pipelines as a test asks for them, and what the API server has of them afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from testbed.controlplane.client import JSON, Client

POD_MONITORS = Path(__file__).parent / "podmonitors.yaml"
GROUP = "diffusion-operator.dev"

REVISION_LABEL = f"{GROUP}/templates"

_API = f"/apis/{GROUP}/v1alpha1"
_COLLECTIONS = {
    "DiffusionPipeline": f"{_API}/namespaces/{{}}/diffusionpipelines",
    "DiffusionPipelineRoleScaler": f"{_API}/namespaces/{{}}/diffusionpipelinerolescalers",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "ControllerRevision": "/apis/apps/v1/namespaces/{}/controllerrevisions",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "PodMonitor": "/apis/monitoring.coreos.com/v1/namespaces/{}/podmonitors",
}
_OF_EVERY_NAMESPACE = {("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")}
# What the API server or a controller assigns, or what tells of time.
_ASSIGNED = {
    *("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation", "observedGeneration"),
    *("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy", "sessionAffinity"),
    *("lastTransitionTime", "lastScaleTime", "currentRevision", "updateRevision"),
    # For which rendering a child was applied; it is made of the owner's uid too.
    f"{GROUP}/applied",
    # Digests of templates, in which the namespace is: of a revision, and in a status.
    *(REVISION_LABEL, "current"),
}


def pipeline(name: str = "digits", **spec: Any) -> JSON:
    """The bundled model in three roles, over our own TCP; `spec` overrides."""
    return {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "DiffusionPipeline",
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "Bundled", "dtype": "float32"},
            "roles": {"encoder": {}, "denoiser": {}, "decoder": {}},
            "transport": {"backend": "tcp", "poolSize": "64Mi"},
            **spec,
        },
    }


class Pipelines:
    """Those of one namespace."""

    def __init__(self, api: Client, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def path(self, kind: str, name: str = "", subresource: str = "") -> str:
        parts = [_COLLECTIONS[kind].format(self.namespace), name, subresource]
        return "/".join(part for part in parts if part)

    def create(self, item: JSON) -> JSON:
        return self.api.post(self.path("DiffusionPipeline"), item)

    def edit(self, name: str, **spec: Any) -> JSON:
        """A merge patch of its spec."""
        return self.api.patch(self.path("DiffusionPipeline", name), {"spec": spec})

    def delete(self, name: str) -> None:
        self.api.delete(self.path("DiffusionPipeline", name))

    def get(self, name: str) -> JSON:
        return self.api.get(self.path("DiffusionPipeline", name))

    def child(self, kind: str, name: str) -> JSON:
        return self.api.get(self.path(kind, name))

    def condition(self, name: str, kind: str) -> JSON:
        """Empty before there is one."""
        conditions = self.get(name).get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def applied(self, name: str) -> bool:
        """Whether all children are as its latest generation says, as its status tells."""
        live = self.get(name)
        told = self.condition(name, "Reconciled")
        return told.get("reason") == "Applied" and told["observedGeneration"] == live["metadata"]["generation"]

    def events(self, name: str, reason: str) -> list[str]:
        """Messages of the Events on a pipeline that have this reason."""
        found = self.api.items(
            f"/api/v1/namespaces/{self.namespace}/events",
            fieldSelector=f"involvedObject.kind=DiffusionPipeline,involvedObject.name={name},reason={reason}",
        )
        return [event["message"] for event in found]

    def replicas(self, stateful_set: str) -> int:
        """As asked for; -1 while there is none."""
        path = self.path("StatefulSet", stateful_set)
        found: int = self.api.get(path)["spec"]["replicas"] if self.api.exists(path) else -1
        return found

    def settled(self, name: str) -> bool:
        """Whether nothing is under way, as its status says about its latest generation.

        The router of such a pipeline is ready, and cannot be asked, as a fake pod has no process.
        """
        live = self.get(name)
        status = live.get("status", {})
        if status.get("observedGeneration") != live["metadata"]["generation"]:
            return False
        reasons = {condition["type"]: condition["reason"] for condition in status["conditions"]}
        counts = [
            (role["desiredReplicas"], role["replicas"], role["readyReplicas"], role["updatedReplicas"])
            for role in status["roles"].values()
        ]
        return (
            reasons["Reconciled"] == "Applied"
            and reasons["Progressing"] in {"Complete", "Suspended"}
            and reasons["RouterReady"] in {"RouterUnreachable", "Suspended"}
            and all(len(set(role)) == 1 for role in counts)
        )

    def objects(self) -> Iterator[JSON]:
        """Pipelines, scalers and everything of the kinds that children have, whosever it is."""
        for kind in _COLLECTIONS:
            path = self.path(kind)
            if kind == "PodMonitor" and not self.api.exists(path):
                continue
            for item in self.api.items(path):
                if kind == "ControllerRevision" and REVISION_LABEL not in item["metadata"].get("labels", {}):
                    continue  # a StatefulSet's own
                if (kind, item["metadata"]["name"]) not in _OF_EVERY_NAMESPACE:
                    yield {**item, "kind": kind}

    def pods(self) -> list[str]:
        """Names of those that are to stay."""
        found = self.api.items(f"/api/v1/namespaces/{self.namespace}/pods")
        return sorted(pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"])

    def state(self) -> dict[str, Any]:
        """All there is, by kind and name, without what differs between two runs that come to the same."""
        found = list(map(_named_alike, self.objects()))
        uids = {item["metadata"]["uid"]: item["metadata"]["name"] for item in found}
        state = {f"{item['kind']}/{item['metadata']['name']}": _lasting(item, uids, self.namespace) for item in found}
        return {**state, "pods": self.pods()}


def _named_alike(item: JSON) -> JSON:
    """A revision without the digest in its name, which differs between namespaces."""
    if item["kind"] == "ControllerRevision":
        item["metadata"]["name"] = item["metadata"]["name"].rpartition("-")[0]
    return item


def _lasting(item: JSON, uids: dict[str, str], namespace: str) -> JSON:
    owners = [
        {**owner, "uid": f"that of {uids.get(owner['uid'], 'what is gone')}"}
        for owner in item["metadata"].get("ownerReferences", [])
    ]
    status = {"status": item["status"]} if item["kind"].startswith("DiffusionPipeline") and "status" in item else {}
    kept = {key: value for key, value in item.items() if key != "status"} | status
    stripped = _strip(kept)
    if owners:
        stripped["metadata"]["ownerReferences"] = owners
    text = re.sub(rf"\b{re.escape(namespace)}\b", "NAMESPACE", json.dumps(stripped))
    found: JSON = json.loads(text)
    return found


def _strip(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strip(inner) for key, inner in value.items() if key not in _ASSIGNED}
    if isinstance(value, list):
        return list(map(_strip, value))
    return value


def differences(wanted: Any, found: Any, path: str = "") -> Iterator[str]:
    """In words, for a person who reads why a test failed."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key in sorted(wanted.keys() | found.keys()):
            inner = f"{path}.{key}" if path else key
            if key not in found:
                yield f"{inner} is missing"
            elif key not in wanted:
                yield f"{inner} is too much"
            else:
                yield from differences(wanted[key], found[key], inner)
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for index, (ours, theirs) in enumerate(zip(wanted, found, strict=True)):
            yield from differences(ours, theirs, f"{path}[{index}]")
    elif wanted != found:
        yield f"{path} is {found!r} instead of {wanted!r}"
