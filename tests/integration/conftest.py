from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dpipe.up.local import LocalPipeline
from testbed.examples import resource
from testbed.pipelines import running


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("workers that leave under load")
    group.addoption("--drains", type=int, metavar="N", help="how often one does, in each case")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the pipeline's workers have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPipeline]:
    """The example, as it is, for tests that leave it as it was: what it counted before is another's."""
    with running(resource("digits"), tmp_path_factory.mktemp("split")) as local:
        yield local
