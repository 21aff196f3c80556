"""The bundled model, whole and cut in three, loaded once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from diffusion_worker import payload
from diffusion_worker.model import Media, OnStep, Parameters, StageModel, Values, load_model, resolve_model
from diffusion_worker.model.driving import Direct
from diffusionpipeline.words import Stage


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits() -> Path:
    return resolve_model("Bundled", "digits", "")


@dataclass(frozen=True)
class Roles:
    """A model object for each stage: three different ones, or one three times."""

    encoder: StageModel
    denoiser: StageModel
    decoder: StageModel

    def conditioning(self, parameters: Parameters) -> Values:
        return through_a_slot(self.encoder.encode(parameters))

    def latents(self, parameters: Parameters, on_step: OnStep = lambda step, steps: None) -> Values:
        return through_a_slot(self.denoiser.denoise(self.conditioning(parameters), parameters, Direct(on_step)))

    def draw(self, parameters: Parameters) -> list[Media]:
        return self.decoder.decode(self.latents(parameters))


def through_a_slot(values: Values) -> Values:
    """What a later role gets to see of `values`."""
    plan = payload.measure(values)
    slot = bytearray(plan.nbytes)
    payload.write(plan, memoryview(slot))
    return payload.read(memoryview(slot))


def load_roles(path: Path, dtype: str, *, split: bool) -> Roles:
    def load(*stages: Stage) -> StageModel:
        return load_model(path=path, stages=frozenset(stages), dtype=dtype, device="cpu")

    if split:
        return Roles(load(Stage.ENCODE), load(Stage.DENOISE), load(Stage.DECODE))
    model = load(*Stage)
    return Roles(model, model, model)


@pytest.fixture(scope="session")
def whole(digits: Path) -> Roles:
    return load_roles(digits, "float32", split=False)


@pytest.fixture(scope="session")
def split(digits: Path) -> Roles:
    return load_roles(digits, "float32", split=True)


@pytest.fixture(scope="session")
def roles_of() -> Callable[..., Roles]:
    return load_roles
