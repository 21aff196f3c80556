"""Every served pipeline class that diffusers has IP-Adapters for makes with one what diffusers makes."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import pytest
from diffusers.loaders import FluxIPAdapterMixin, IPAdapterMixin, SD3IPAdapterMixin

from testbed.zoo.classes.catalogue import CLASSES
from testbed.zoo.classes.showing import show
from testbed.zoo.classes.trying import forked, preload

HAVE_SOME = (IPAdapterMixin, FluxIPAdapterMixin, SD3IPAdapterMixin)
SHOWN = [
    name
    for name in CLASSES
    if issubclass(getattr(diffusers, name), HAVE_SOME)
    and "ip_adapter_image" in inspect.signature(getattr(diffusers, name).__call__).parameters
]
"""By their own signatures."""
NOT_SERVED = [name for name in SHOWN if "PAG" in name] + ["StableDiffusionSAGPipeline", "StableDiffusionLDM3DPipeline"]
"""With an IP-Adapter or without."""

NEAR = 1e-4
"""Of a pixel, 0 to 1: kernels round by where in memory weights begin."""

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    preload()


def test_there_are_many() -> None:
    assert len(set(SHOWN) - set(NOT_SERVED)) >= 30


@pytest.mark.parametrize("name", [name for name in SHOWN if name not in NOT_SERVED])
def test_it_makes_what_diffusers_makes(name: str) -> None:
    made: dict[str, Any] = forked(show, CLASSES[name])
    assert "error" not in made, made["trace"]
    assert made["apart"] < NEAR < made["by it"]
