"""IP-Adapters beside a model: split equals whole and the classic pipeline, and they leave nothing behind."""

from __future__ import annotations

from typing import Any

import pytest

from testbed.zoo.control_nets import Led
from testbed.zoo.processes import Case, Stay

FAMILIES = ("sd15", "sdxl", "flux")
ONE = (("look", 0.6),)
BOTH = (("look", 0.6), ("style", None))
TWICE = (("look", 0.6), ("look", 0.3))
PLUS = (("plus", 0.5), ("look", 0.5))

pytestmark = pytest.mark.timeout(900)

NEAR = 1e-3
"""As a share of the largest value, or of latents: the order of sums."""

each_family = pytest.mark.parametrize("family", FAMILIES)


def thorough(case: Case) -> Any:
    return pytest.param(case, marks=pytest.mark.thorough, id=f"{case.family}-{'-'.join(name for name, _ in case.shown)}")


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(Case(family, shown=ONE), id=family) for family in FAMILIES),
        pytest.param(Case("sd15", shown=PLUS), id="sd15-plus-look"),
        thorough(Case("sdxl", shown=PLUS)),
        *(thorough(Case(family, shown=shown)) for family in FAMILIES for shown in (BOTH, TWICE, (("elsewhere", None),))),
        *(thorough(Case(f"{family}-image-to-image", shown=ONE)) for family in FAMILIES),
        *(thorough(Case(f"{family}-mask", shown=ONE)) for family in ("sd15", "sdxl")),
    ],
)
def test_split_equals_whole_and_the_classic_pipeline(pipeline: Any, case: Case) -> None:
    made = pipeline.run(case)
    assert made["split"]["files"] == made["whole"]["files"]
    assert made["split"]["pixels"] == made["whole"]["pixels"]
    assert pipeline.whole.call("distance_to_classic", case, gathers=True) == 0.0
