"""A pipeline becomes the objects that run it: all of the simplest one's, and of others what they have instead.

`UPDATE_GOLDEN=1 pytest tests/unit/render` writes the golden files anew; read the difference before committing it.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from unit.render.children import BASES, GOLDEN, SIMPLEST, Child, whole
from unit.render.difference import difference


def golden(name: str, found: Any) -> Any:
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(yaml.dump_all(found, Dumper=Plain, sort_keys=False, width=120))
    return list(yaml.safe_load_all(file.read_text()))


class Plain(yaml.SafeDumper):
    """Repeats what stands in several places."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def test_the_simplest_pipelines_children_are_those_of_its_golden_file() -> None:
    children = whole(SIMPLEST)
    assert children == golden(SIMPLEST, children)


@pytest.mark.parametrize("name", BASES)
def test_what_others_have_instead_is_what_their_golden_files_say(name: str) -> None:
    found = difference(whole(BASES[name]), whole(name))
    assert [found] == golden(name, [found])


@pytest.mark.parametrize("name", ["isolated-and-monitored", "rdma-with-networks"])
def test_no_change_of_a_child_goes_unseen(name: str) -> None:
    base, children = whole(BASES[name]), whole(name)
    before = difference(base, children)

    def seen(changed: list[Child]) -> bool:
        try:
            return difference(base, changed) != before
        except (KeyError, ValueError):  # no object, or not those of one pipeline
            return True

    assert [where for where, changed in changes(children) if not seen(changed)] == []


def changes(children: list[Child]) -> Iterator[tuple[str, list[Child]]]:
    """Each value changed, each field and each item left out, and each two neighbours in a list exchanged."""
    changed = copy.deepcopy(children)
    for where, holder, key in _places(changed, ""):
        value = holder[key]
        if not isinstance(value, dict | list):
            holder[key] = f"{value}x"
            yield f"{where}: another value", changed
            holder[key] = value
        if isinstance(holder, dict):
            kept = dict(holder)
            del holder[key]
            yield f"{where}: left out", changed
            holder.clear()
            holder.update(kept)
        else:
            kept_items = list(holder)
            del holder[key]
            yield f"{where}: left out", changed
            holder[:] = kept_items
            if key and holder[key - 1] != value:
                holder[key - 1 : key + 1] = [value, holder[key - 1]]
                yield f"{where}: exchanged", changed
                holder[:] = kept_items


def _places(value: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(value, dict | list):
        for key in [*value] if isinstance(value, dict) else range(len(value)):
            yield f"{where}.{key}", value, key
            yield from _places(value[key], f"{where}.{key}")


def test_every_golden_file_is_of_a_pipeline_here() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == {SIMPLEST, *BASES}
