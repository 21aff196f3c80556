from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dpipe.up.local import LocalPipeline
from testbed.examples import resource
from testbed.led_digits import control_net
from testbed.pipelines import running
from testbed.shown_digits import ip_adapters

FLOW = "FlowMatchEulerDiscreteScheduler"
SCHEDULERS: list[dict[str, Any]] = [
    {"name": "karras", "class": FLOW, "options": {"use_karras_sigmas": True}},
    {"name": "drawn", "class": FLOW, "options": {"stochastic_sampling": True, "shift": 2}},
]


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


@dataclass(frozen=True)
class Extended:
    """The example with more than its model: ControlNets edges and depth, IP-Adapters look and style, SCHEDULERS."""

    local: LocalPipeline
    edges: Path
    depth: Path
    """Its scale is 0.7."""
    shown: Path
    """The folder of both IP-Adapters, of which the scale of style is 0.7."""


@pytest.fixture(scope="session")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Extended]:
    """For tests that leave it as it was: each looks at what it named itself, beside what it did not."""
    folder = tmp_path_factory.mktemp("extended")
    edges, depth = control_net(folder / "edges"), control_net(folder / "nets" / "depth", seed=1)
    shown = ip_adapters(folder / "shown")
    led = [
        {"name": "edges", "source": "Path", "id": str(edges)},
        {"name": "depth", "source": "Path", "id": str(folder / "nets"), "subfolder": "depth", "scale": 0.7},
    ]
    showing = [
        {"name": "look", "source": "Path", "id": str(shown), "file": "look.safetensors"},
        {"name": "style", "source": "Path", "id": str(folder), "file": "shown/style.safetensors", "scale": 0.7},
    ]
    document = resource("digits", model__controlNets=led, model__ipAdapters=showing, model__schedulers=SCHEDULERS)
    with running(document, folder / "data") as local:
        yield Extended(local, edges, depth, shown)
