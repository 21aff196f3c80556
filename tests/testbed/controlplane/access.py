"""Rights for the users of a test, by RBAC as in any cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from testbed.controlplane.cluster import Cluster

_GROUP = "rbac.authorization.k8s.io"
_API = f"/apis/{_GROUP}/v1"
_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


def allow(
    cluster: Cluster,
    user: str,
    rules: Sequence[Mapping[str, Any]],
    namespaces: Sequence[str] | None = None,
    *,
    name: str | None = None,
) -> None:
    """Lets a user do what RBAC `rules` say, in these namespaces alone or (None) in all.

    A role of this `name` is replaced. Returns when the API server acts by it.
    """
    name = (name or user).replace(":", "-")
    for namespace in [None] if namespaces is None else namespaces:
        place = "" if namespace is None else f"/namespaces/{namespace}"
        prefix = "Cluster" if namespace is None else ""
        about = {"apiVersion": f"{_GROUP}/v1", "metadata": {"name": name}}
        role = {**about, "kind": f"{prefix}Role", "rules": list(rules)}
        binding = {
            **about,
            "kind": f"{prefix}RoleBinding",
            "roleRef": {"apiGroup": _GROUP, "kind": f"{prefix}Role", "name": name},
            "subjects": [{"apiGroup": _GROUP, "kind": "User", "name": user}],
        }
        for thing in (role, binding):
            cluster.api.apply(f"{_API}{place}/{str(thing['kind']).lower()}s/{name}", thing)
        cluster.until(lambda n=namespace: may(cluster, user, rules[-1], n), 30, f"{user} may do as {name} says")  # type: ignore[misc]


def may(cluster: Cluster, user: str, rule: Mapping[str, Any], namespace: str | None = None) -> bool:
    """Whether a user has the rights of a rule, as its first group, resource, verb and name tell."""
    resource, _, subresource = rule["resources"][0].partition("/")
    attributes = {
        "group": rule["apiGroups"][0],
        "resource": resource,
        "subresource": subresource,
        "verb": rule["verbs"][0],
        "name": rule.get("resourceNames", [""])[0],
        "namespace": namespace or "",
    }
    review = cluster.api.post(_REVIEWS, {"spec": {"user": user, "resourceAttributes": attributes}})
    return bool(review["status"]["allowed"])
