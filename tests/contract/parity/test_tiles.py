"""A VAE that works in tiles: split equals whole and the classic pipeline with tiles, and the tiles are real."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.zoo.processes import Case

SIZE = (("width", 128), ("height", 128))
"""Several tiles of each of these VAEs."""

pytestmark = pytest.mark.timeout(600)

of_each_way = pytest.mark.parametrize("tiled", ["sdxl", "sd15"])


@of_each_way
def test_split_equals_whole_and_the_classic_pipeline(pipeline: Any, tiled: str) -> None:
    case = Case(tiled, changes=SIZE, tiled=True)
    made = pipeline.run(case)
    assert made["split"]["files"] == made["whole"]["files"]
    assert made["split"]["pixels"] == made["whole"]["pixels"]
    assert pipeline.whole.call("distance_to_plain", case, gathers=True) == 0.0


@of_each_way
def test_pictures_differ_only_where_there_is_more_than_one_tile(pipeline: Any, tiled: str) -> None:
    def pixels(**given: Any) -> Any:
        return pipeline.whole.call("whole", Case(tiled, **given))["pixels"]

    assert pixels(changes=SIZE, tiled=True) != pixels(changes=SIZE)
    one_tile = (("width", 16), ("height", 16))
    assert pixels(changes=one_tile, tiled=True) == pixels(changes=one_tile)
