"""What is different about a pipeline's children from those of a simpler one, in a form that people read and that loses
nothing: the simpler one's children and the difference determine them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from diffusion_operator.render import names
from unit.render.children import Child, of_kind

ORDER: Final = "(order)"
KEYS: Final = ("mountPath", "name")
"""By which the items of a list are told apart: the first that all of them have."""


def difference(base: Sequence[Child], children: Sequence[Child]) -> dict[str, Any]:
    """By kind and name, only what differs; null is what is not there.

    Lists of named items are shown as objects, with their order where it does not follow from the simpler one's. The
    pipeline's name and generation are `<name>` and `<generation>` in all places, and the generation is told once.
    """
    found = _difference(_by_name(base), _by_name(children))
    return {"generation": _generation(children), **(found or {})}


def _by_name(children: Sequence[Child]) -> list[Child]:
    pipeline = children[0]["metadata"]["labels"][names.PIPELINE_LABEL]
    known = [(_generation(children), "<generation>"), (pipeline, "<name>")]
    replaced = [_replaced(child, known) for child in children]
    return [{"name": f"{child['kind']} {child['metadata']['name']}", **child} for child in replaced]


def _generation(children: Sequence[Child]) -> str:
    (config_map,) = of_kind(children, "ConfigMap").values()
    found: str = config_map["metadata"]["labels"][names.GENERATION_LABEL]
    return found


def _replaced(value: Any, known: Sequence[tuple[str, str]]) -> Any:
    if isinstance(value, str):
        for text, placeholder in known:
            value = value.replace(text, placeholder)
        return value
    if isinstance(value, Mapping):
        return {_replaced(key, known): _replaced(item, known) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, known) for item in value]
    return value


def _difference(old: Any, new: Any) -> Any:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        changed = {key: _difference(old.get(key), item) for key, item in new.items() if item != old.get(key)}
        return changed | dict.fromkeys(old.keys() - new.keys())
    if isinstance(old, list) and isinstance(new, list) and (key := _key([*old, *new])):
        before, after = ({item[key]: item for item in items} for items in (old, new))
        if len(before) == len(old) and len(after) == len(new):
            order = {} if [*after] == [name for name in before if name in after] else {ORDER: ", ".join(after)}
            return order | _difference(before, after)
    return new


def _key(items: Sequence[Any]) -> str | None:
    return next((key for key in KEYS if all(isinstance(item, Mapping) and key in item for item in items)), None)
