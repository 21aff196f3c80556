"""A user's pod template over ours: Kubernetes' strategic merge, as far as pod templates need it.

Objects are merged field by field, and null removes a field. Lists whose items have a key are merged by it: containers
field by field, other items as a whole (two sources of one volume, or two values of one variable, would contradict each
other). Tolerations and envFrom are added. Every other list, such as args, is taken from the user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from diffusion_operator.api.podtemplate import APPENDED, CONTAINER_KEYS, POD_KEYS, PROBES
from diffusion_operator.render import environment

Object = Mapping[str, Any]

_CONTAINERS: Final = ("containers", "initContainers")
_HANDLERS: Final = frozenset({"exec", "httpGet", "tcpSocket", "grpc"})


def merged_template(ours: Object, users: Object) -> dict[str, Any]:
    """The user's template has passed `check_pod_template`. Neither argument is changed."""
    return {
        "metadata": _merged(ours["metadata"], users.get("metadata") or {}),
        "spec": _pod_spec(ours["spec"], users.get("spec") or {}),
    }


def _pod_spec(ours: Object, users: Object) -> dict[str, Any]:
    plain = {key: value for key, value in users.items() if key not in POD_KEYS and key not in APPENDED}
    found = _merged(ours, plain)
    for key in (key for key in users if key not in plain):
        if users[key] is None:
            found.pop(key, None)
        elif key in _CONTAINERS:
            found[key] = _containers(ours.get(key, ()), users[key])
        else:
            found[key] = _items(ours.get(key, ()), users[key], POD_KEYS.get(key, ()))
    return found


def _containers(ours: Sequence[Object], users: Sequence[Object]) -> list[Any]:
    given = {container["name"]: container for container in users}
    known = {container["name"] for container in ours}
    return [_container(container, given.get(container["name"], {})) for container in ours] + [
        _merged({}, container) for container in users if container["name"] not in known
    ]


def _container(ours: Object, users: Object) -> dict[str, Any]:
    plain = {key: value for key, value in users.items() if key not in CONTAINER_KEYS and key not in APPENDED}
    base = dict(ours)
    for probe in PROBES:
        if _HANDLERS & (plain.get(probe) or {}).keys():
            # A probe has one handler.
            base[probe] = {key: value for key, value in ours.get(probe, {}).items() if key not in _HANDLERS}
    found = _merged(base, plain)
    for key in (key for key in users if key not in plain):
        if users[key] is None:
            found.pop(key, None)
        elif key == "env":
            found[key] = environment.merged(ours.get(key, ()), deepcopy(users[key]))
        else:
            found[key] = _items(ours.get(key, ()), users[key], CONTAINER_KEYS.get(key, ()))
    return found


def _items(ours: Sequence[Object], users: Sequence[Object], keys: tuple[str, ...]) -> list[Any]:
    """Ours in their order, each in the user's form if the user names it, then the user's others in their order."""
    if not keys:
        return [*ours, *(deepcopy(item) for item in users if item not in ours)]
    given = {tuple(item[key] for key in keys): deepcopy(item) for item in users}
    replaced = [given.pop(tuple(item[key] for key in keys), item) for item in ours]
    return replaced + list(given.values())


def _merged(ours: Object, users: Object) -> dict[str, Any]:
    found = dict(ours)
    for key, value in users.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, Mapping):
            base = found.get(key)
            found[key] = _merged(base if isinstance(base, Mapping) else {}, value)
        else:
            found[key] = deepcopy(value)
    return found
