"""Sizes of claims, compared and put in their place."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_operator.render import render
from diffusion_operator.render.claims import resized, sizes, with_sizes
from unit.render.children import Child, pipeline, stateful_sets


def router(size: str, **storage: Any) -> Child:
    given = {"type": "PersistentVolumeClaim", "size": size, **storage}
    return stateful_sets(render(pipeline(router={"storage": given})))["router"]


@pytest.mark.parametrize("size", ["2Gi", "2048Mi", "2147483648", "2.0Gi"])
def test_a_size_in_other_words_is_the_same(size: str) -> None:
    assert resized(router("2Gi"), router(size)) == {}


@pytest.mark.parametrize("size", ["2G", "2049Mi", "1Gi"])
def test_another_size_is_told_with_the_former(size: str) -> None:
    assert resized(router("2Gi"), router(size)) == {"data": ("2Gi", size)}


def test_a_template_that_only_one_has_is_of_no_size_to_compare() -> None:
    without = stateful_sets(render(pipeline()))["router"]
    assert sizes(without) == {}
    assert resized(without, router("2Gi")) == resized(router("2Gi"), without) == {}


def test_a_size_is_put_in_its_place_and_nothing_else_changes() -> None:
    wanted = router("3Gi", storageClassName="fast")
    assert with_sizes(wanted, {"data": "2Gi"}) == router("2Gi", storageClassName="fast")
    assert with_sizes(wanted, {"models": "2Gi"}) == wanted == router("3Gi", storageClassName="fast")
