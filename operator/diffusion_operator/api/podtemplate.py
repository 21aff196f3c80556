"""What the definition leaves open: the inside of `podTemplate` and `affinity`.

The API server keeps whatever stands there. Only its shape is checked here, as far as merging depends on it; the API
server checks the rest when the operator applies the StatefulSet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from diffusion_operator.api.errors import FieldError, InvalidResourceError, Path
from diffusion_operator.api.role import Object

POD_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
    "readinessGates": ("conditionType",),
}
CONTAINER_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "env": ("name",),
    "ports": ("containerPort",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "resizePolicy": ("resourceName",),
}
"""By which of its fields an item of a list is told from the others, as Kubernetes' strategic merge has it."""

APPENDED: Final = frozenset({"tolerations", "envFrom"})
"""Lists without a key, to which items are added."""

PROBES: Final = ("startupProbe", "livenessProbe", "readinessProbe")
AFFINITIES: Final = ("nodeAffinity", "podAffinity", "podAntiAffinity")
REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def check_pod_template(template: Any, path: Path) -> Object:
    """The template, if it can be merged. Raises InvalidResourceError."""
    found = _mapping(template, path)
    for key in found:
        if key not in ("metadata", "spec"):
            raise _fault((*path, str(key)), "unknown field: a pod template has metadata and spec")
    metadata = _mapping(found.get("metadata"), (*path, "metadata"))
    for key in ("labels", "annotations"):
        _mapping(metadata.get(key), (*path, "metadata", key))
    spec_path = (*path, "spec")
    spec = _mapping(found.get("spec"), spec_path)
    _check_lists(spec, POD_KEYS, spec_path)
    for key in ("containers", "initContainers"):
        for index, container in enumerate(spec.get(key) or ()):
            container_path = (*spec_path, key, index)
            _check_lists(container, CONTAINER_KEYS, container_path)
            for probe in PROBES:
                _mapping(container.get(probe), (*container_path, probe))
    return found


def check_affinity(affinity: Any, path: Path) -> Object:
    """The affinity, if terms can be added to it. Raises InvalidResourceError."""
    found = _mapping(affinity, path)
    for key in AFFINITIES:
        part = _mapping(found.get(key), (*path, key))
        for terms in (REQUIRED, PREFERRED):
            if key != "nodeAffinity" and not isinstance(part.get(terms), list | None):
                raise _fault((*path, key, terms), "must be a list of terms")
    return found


def _check_lists(value: Object, keys: Mapping[str, tuple[str, ...]], path: Path) -> None:
    for field in (*keys, *APPENDED):
        items = value.get(field)
        if items is None:
            continue
        if not isinstance(items, list):
            raise _fault((*path, field), "must be a list")
        for index, item in enumerate(items):
            if not isinstance(item, Mapping):
                raise _fault((*path, field, index), f"must be an object, not {item!r}")
            missing = [key for key in keys.get(field, ()) if not isinstance(item.get(key), str | int)]
            if missing:
                raise _fault((*path, field, index), f"lacks {' and '.join(missing)}, by which it would be merged")


def _mapping(value: Any, path: Path) -> Object:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _fault(path, f"must be an object, not {value!r}")
    return value


def _fault(path: Path, message: str) -> InvalidResourceError:
    return InvalidResourceError([FieldError(path, message)])
