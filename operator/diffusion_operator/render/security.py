"""As whom pods run, and what they may: the profile that the resource names, and the platform's own wishes over it."""

from __future__ import annotations

from typing import Any, Final

from diffusion_operator.api import Pipeline, RoleSpec

Object = dict[str, Any]

_CUSTOM: Final = "Custom"
_OPENSHIFT: Final = "OpenShift"
_USER: Final = 65532


def pod_security(pipeline: Pipeline, spec: RoleSpec) -> Object:
    """Fields of the pod's spec."""
    found = {**_pod(pipeline.security_profile), **spec.pod_security}
    return {"securityContext": found} if found else {}


def container_security(pipeline: Pipeline, spec: RoleSpec, needed: Object) -> Object:
    """Fields of the container main; `needed` is what its transport does not work without."""
    profile = {} if pipeline.security_profile == _CUSTOM else _container()
    found = {**profile, **spec.security, **(needed if profile else {})}
    return {"securityContext": found} if found else {}


def _pod(profile: str) -> Object:
    if profile == _CUSTOM:
        return {}
    # On OpenShift the cluster says which user, of a range that each namespace has, and refuses every other.
    user = {} if profile == _OPENSHIFT else {"runAsUser": _USER, "runAsGroup": _USER, "fsGroup": _USER}
    return {
        "runAsNonRoot": True,
        **user,
        # Else each start would walk through all files of a claim.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _container() -> Object:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
