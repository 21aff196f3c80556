"""Where a live object is not what it should be.

Only what we send is compared: defaults that the API server fills in, and what others add (a sidecar that a webhook
injects, an annotation), are none of our business. Lists that Kubernetes merges by a key are compared by that key, the
others item by item. A quantity is a number, however it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from diffusion_operator.api.quantity import exact

_QUANTITIES: Final = {"requests", "limits"}
_QUANTITY_FIELDS: Final = {"sizeLimit", "storage"}

# Owned as a whole (`x-kubernetes-map-type: atomic`): what others add changes what is selected, and an apply drops it.
_WHOLE: Final = {"selector", "matchLabels", "podSelector", "namespaceSelector", "nodeSelector"}

# Kubernetes' merge keys of the lists that pods and Services have (`x-kubernetes-list-map-keys`).
_MERGE_KEYS: Final[dict[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
    "resourceClaims": ("name",),
    "claims": ("name",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "ownerReferences": ("uid",),
}


def differences(wanted: Any, live: Any, path: str = "") -> Iterator[str]:
    """Paths of what `live` lacks or has otherwise, such as `spec.template.spec.containers[main].image`."""
    if isinstance(wanted, Mapping):
        if not isinstance(live, Mapping):
            if wanted or live is not None:
                yield path
            return
        for key, value in wanted.items():
            yield from _field(key, value, live.get(key), f"{path}.{key}" if path else key, path)
    elif isinstance(wanted, list):
        yield from _list(wanted, live, path)
    elif wanted != live:
        yield path


def _field(key: str, wanted: Any, live: Any, path: str, parent: str) -> Iterator[str]:
    # Without the feature gate MaxUnavailableStatefulSet, as by default, the API server drops it.
    if live is None and path.endswith("updateStrategy.rollingUpdate.maxUnavailable"):
        return
    # The API server drops many an empty value: nothing is what it means.
    if live is None and (wanted is None or wanted is False or wanted in ("", 0) or wanted == [] or wanted == {}):
        return
    if key in _QUANTITY_FIELDS or parent.rpartition(".")[2] in _QUANTITIES:
        if not _same_quantity(wanted, live):
            yield path
    elif key in _WHOLE and isinstance(live, Mapping) and live.keys() - wanted.keys():
        yield path
    elif isinstance(wanted, list):
        yield from _list(wanted, live, path, _MERGE_KEYS.get(key) or (("name",) if _named(wanted) else ()))
    else:
        yield from differences(wanted, live, path)


def _named(items: list[Any]) -> bool:
    """Ports of containers and Services: their merge key has defaults, their names are as good."""
    return bool(items) and all(
        isinstance(item, Mapping) and "name" in item and ("containerPort" in item or "port" in item) for item in items
    )


def _list(wanted: list[Any], live: Any, path: str, keys: tuple[str, ...] = ()) -> Iterator[str]:
    if not isinstance(live, list):
        if wanted or live is not None:
            yield path
        return
    if keys:
        found = {tuple(item.get(key) for key in keys): item for item in live if isinstance(item, Mapping)}
        for item in wanted:
            key = tuple(item.get(key) for key in keys)
            inner = f"{path}[{','.join(map(str, key))}]"
            if key in found:
                yield from differences(item, found[key], inner)
            else:
                yield inner
    elif len(wanted) != len(live):
        yield path
    else:
        for index, (ours, theirs) in enumerate(zip(wanted, live, strict=True)):
            yield from differences(ours, theirs, f"{path}[{index}]")


def _same_quantity(wanted: Any, live: Any) -> bool:
    if isinstance(wanted, Mapping) or isinstance(live, Mapping):
        return not list(differences(wanted, live))
    if wanted == live:
        return True
    try:
        return exact(wanted) == exact(live)
    except (ValueError, TypeError):
        return False
