from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.zoo.roles import Roles, started

# One image and one video family of each way of cutting, all in full precision and the first in half.
IN_GATE = ("sdxl", "wan21", "sd15", "cogvideox")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and item.path.is_relative_to(here):
            of = item.callspec.params
            in_full = of.get("dtype", "float32") == "float32"
            if "family" in of and not (of["family"] in IN_GATE and (in_full or of["family"] == IN_GATE[0])):
                item.add_marker(pytest.mark.thorough)


@pytest.fixture(scope="session")
def pipeline() -> Iterator[Roles]:
    with started() as roles:
        yield roles
