from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.zoo.roles import Roles, started


@pytest.fixture(scope="session")
def pipeline() -> Iterator[Roles]:
    with started() as roles:
        yield roles
