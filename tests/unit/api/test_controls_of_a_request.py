"""Controls say when and how they lead; what they have in common with IP-Adapters is tested with these."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_router.api.fields import InvalidField
from diffusion_router.api.kinds import EDIT, GENERATION, JOB
from diffusionpipeline.v1 import stage_pb2
from unit.api.test_validation import READER

EDGES: dict[str, Any] = {"name": "edges", "scale": 0.8, "start": 0.1, "end": 0.9, "mode": 2}
READ: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
    ([EDGES, {"name": "depth"}], [EDGES, {"name": "depth"}]),
    ([{"name": "depth", "scale": None, "mode": None}], [{"name": "depth"}]),
    ([{"name": "depth", "scale": 0, "start": 0}], [{"name": "depth", "scale": 0, "start": 0}]),
]


@pytest.mark.parametrize("kind", [GENERATION, EDIT, JOB], ids=["generation", "edit", "job"])
@pytest.mark.parametrize(("given", "controls"), READ, ids=str)
def test_they_are_read_and_what_is_not_given_stays_open(kind: Any, given: Any, controls: Any) -> None:
    wanted = [stage_pb2.Control(**control) for control in controls]
    assert list(READER.read(kind, {"prompt": "x", "controls": given}).parameters.controls) == wanted


REFUSED: list[tuple[object, str, str]] = [
    ([{"name": "edges", "start": 0.5, "end": 0.5}], "controls[0].start", "must be below its end"),
    ([{"name": "edges", "start": 1}], "controls[0].start", "must be below its end"),
    ([{"name": "edges", "end": 0}], "controls[0].end", "must be above its start"),
    ([{"name": "edges", "end": 1.5}], "controls[0].end", "must be from 0 to 1"),
    ([{"name": "edges", "mode": -1}], "controls[0].mode", "must be from 0"),
    ([{"name": "edges", "mode": 0.5}], "controls[0].mode", "must be a whole number"),
]


@pytest.mark.parametrize(("given", "field", "said"), REFUSED, ids=str)
def test_what_can_not_be_served_is_refused_by_field(given: object, field: str, said: str) -> None:
    with pytest.raises(InvalidField, match=said) as refused:
        READER.read(JOB, {"prompt": "x", "controls": given})
    assert refused.value.field == field
