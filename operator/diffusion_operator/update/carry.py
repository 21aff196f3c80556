"""An edit, carried over from what this operator makes of a resource to what an earlier one made: a three-way merge.

`held` is what the earlier one made of the resource as it was, `base` what this one makes of that, `wanted` what this
one makes of the resource as it is now. What differs between the latter two is the edit, and only that is done to
`held`. Lists whose items have a key are merged by it in the order in which they are held: containers field by field,
other items as a whole. Of any other list, such as args, an edit takes the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from diffusion_operator.api.podtemplate import CONTAINER_KEYS, POD_KEYS

_KEYS: Final = {**POD_KEYS, **CONTAINER_KEYS}
_CONTAINERS: Final = ("containers", "initContainers")
_ABSENT: Final[Any] = object()

Merge = Callable[[str, Any, Any, Any], Any]
"""Of one field: its name, and its values held, base and wanted, each of which may be absent."""


def carried(held: Mapping[Any, Any], base: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> dict[Any, Any]:
    """None of the arguments is changed."""
    return _object(held, base, wanted, _field)


def _object(
    held: Mapping[Any, Any], base: Mapping[Any, Any], wanted: Mapping[Any, Any], merge: Merge
) -> dict[Any, Any]:
    names = [*held, *(name for name in wanted if name not in held)]
    found = {name: merge(name, *(each.get(name, _ABSENT) for each in (held, base, wanted))) for name in names}
    return {name: value for name, value in found.items() if value is not _ABSENT}


def _field(name: str, held: Any, base: Any, wanted: Any) -> Any:
    if base == wanted:
        return held
    if isinstance(held, Mapping) and isinstance(wanted, Mapping):
        return _object(held, base if isinstance(base, Mapping) else {}, wanted, _field)
    ours, before, theirs = (_by_key(name, items) for items in (held, [] if base is _ABSENT else base, wanted))
    if ours is None or before is None or theirs is None:
        return wanted
    return list(_object(ours, before, theirs, _container if name in _CONTAINERS else _whole).values())


def _container(_name: str, held: Any, base: Any, wanted: Any) -> Any:
    return _field("", held, base, wanted)


def _whole(_name: str, held: Any, base: Any, wanted: Any) -> Any:
    return held if base == wanted else wanted


def _by_key(name: str, items: Any) -> dict[Any, Any] | None:
    """None: it is no list whose items have keys of their own."""
    keys = _KEYS.get(name)
    if keys is None or not isinstance(items, list):
        return None
    found = {tuple(item.get(key) for key in keys): item for item in items}
    return found if len(found) == len(items) else None
