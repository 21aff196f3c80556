"""What a field manager has applied to a live object, by its managedFields.

To find out what an operator of the time before revisions has made: the live object also has what the API server fills
in and what webhooks add, and whoever applied that too would make it their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

# Atomic objects are owned as a whole, with the defaults that the API server has filled in.
_FILLED_IN: Final[Mapping[str, Mapping[str, str]]] = {
    "fieldRef": {"apiVersion": "v1"},
    "resourceFieldRef": {"divisor": "0"},
}


def owned(live: Mapping[str, Any], manager: str) -> dict[str, Any]:
    """The fields of `live` that `manager` has applied, as it applied them. Empty: none."""
    for entry in live["metadata"].get("managedFields") or ():
        if entry["manager"] == manager and entry["operation"] == "Apply" and not entry.get("subresource"):
            found: dict[str, Any] = _fields(live, entry["fieldsV1"])
            return found
    return {}


def _fields(live: Any, fields: Mapping[str, Any]) -> Any:
    """f: a field; k: an item of a list, by its keys; v: one by its value; `.` the item or object itself.

    https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta, managedFields.fieldsV1
    """
    if not fields:
        return live
    inner = {name.partition(":")[2]: (name[0], value) for name, value in fields.items() if name != "."}
    if isinstance(live, Mapping):
        found = {name: _fields(live[name], value) for name, (_, value) in inner.items() if name in live}
        return {name: _without(_FILLED_IN.get(name, {}), value) for name, value in found.items()}
    return [_fields(item, value) for item in live for text, (kind, value) in inner.items() if _is(kind, text, item)]


def _without(filled_in: Mapping[str, str], value: Any) -> Any:
    if not filled_in or not isinstance(value, Mapping):
        return value
    return {name: inner for name, inner in value.items() if filled_in.get(name) != inner}


def _is(kind: str, text: str, item: Any) -> bool:
    named = json.loads(text)
    if kind == "v":
        return bool(item == named)
    return isinstance(item, Mapping) and all(item.get(key) == value for key, value in named.items())
