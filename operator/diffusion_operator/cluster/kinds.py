"""The kinds of objects that the operator reads and writes, and their addresses in the API.

They are few and known, so they are written down rather than discovered: no discovery requests at start, no cache file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from diffusion_operator.api import API_VERSION, CACHE_KIND, CACHE_PLURAL, KIND, PLURAL, SCALER_KIND, SCALER_PLURAL

Object = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    api_version: str
    kind: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """Without a namespace: all of them. Without a name: the collection."""
        base = "/api/" if "/" not in self.api_version else "/apis/"
        parts = [base + self.api_version]
        if namespace is not None and self.namespaced:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part is not None]
        return "/".join(parts)

    def __str__(self) -> str:
        return self.kind


PIPELINE: Final = Kind(API_VERSION, KIND, PLURAL)
SCALER: Final = Kind(API_VERSION, SCALER_KIND, SCALER_PLURAL)
MODEL_CACHE: Final = Kind(API_VERSION, CACHE_KIND, CACHE_PLURAL)

SERVICE_ACCOUNT: Final = Kind("v1", "ServiceAccount", "serviceaccounts")
CONFIG_MAP: Final = Kind("v1", "ConfigMap", "configmaps")
SERVICE: Final = Kind("v1", "Service", "services")
NETWORK_POLICY: Final = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
DAEMON_SET: Final = Kind("apps/v1", "DaemonSet", "daemonsets")
STATEFUL_SET: Final = Kind("apps/v1", "StatefulSet", "statefulsets")
CONTROLLER_REVISION: Final = Kind("apps/v1", "ControllerRevision", "controllerrevisions")
DISRUPTION_BUDGET: Final = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
POD_MONITOR: Final = Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors")

CLAIM: Final = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
POD: Final = Kind("v1", "Pod", "pods")
EVENT: Final = Kind("v1", "Event", "events")
NODE: Final = Kind("v1", "Node", "nodes", namespaced=False)
LEASE: Final = Kind("coordination.k8s.io/v1", "Lease", "leases")
DEFINITION: Final = Kind(
    "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False
)

CHILDREN: Final = (
    CONTROLLER_REVISION,
    SERVICE_ACCOUNT,
    CONFIG_MAP,
    SERVICE,
    NETWORK_POLICY,
    STATEFUL_SET,
    DISRUPTION_BUDGET,
    POD_MONITOR,
)
"""What is applied and pruned. Role scalers are not among them: their one field belongs to others (see `scalers`)."""

_BY_NAME: Final = {kind.kind: kind for kind in (*CHILDREN, SCALER, PIPELINE)}


def kind_of(item: Mapping[str, Any]) -> Kind:
    return _BY_NAME[item["kind"]]
