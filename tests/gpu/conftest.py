"""All of this folder needs an NVIDIA GPU that torch can use: where there is none, it is skipped and says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from testbed.zoo.roles import Roles, started

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        item.add_marker(pytest.mark.gpu)
        if not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="torch finds no NVIDIA GPU"))


@pytest.fixture(scope="session")
def roles() -> Iterator[Roles]:
    with started() as running:
        yield running
