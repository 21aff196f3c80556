"""I5 from a hub: three workers that hold nothing but what their roles download make the whole model's bytes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from diffusion_worker.model import Media, Parameters, RoleModel, load_model
from diffusion_worker.model.driving import Direct
from diffusionpipeline.words import STAGES, Stage
from testbed.published import VARIANT
from testbed.zoo.cache import ensure
from testbed.zoo.cases import Case, parameters_of
from testbed.zoo.catalogue import FAMILIES

# One of each kind: published in pieces, statistics in the VAE's buffers, a video, and one that is replayed.
GATE = ("sd3-image-to-image", "flux2-klein", "ltx", "sd15")


def made(encoder: RoleModel, denoiser: RoleModel, decoder: RoleModel, request: Parameters) -> list[Media]:
    return decoder.decode(denoiser.denoise(encoder.encode(request), request, Direct()))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in GATE else pytest.mark.thorough) for name in FAMILIES]
)
def test_three_roles_from_what_each_downloads_make_the_bytes_of_the_whole(hub, fetched, published, tmp_path, name):
    checkpoint = ensure(FAMILIES[name].checkpoint)
    id = "maker/sd3" if FAMILIES[name].checkpoint.name == "sd3" else "maker/other"
    if id == "maker/other":
        hub.add(id, checkpoint)
    request = parameters_of(Case(name))

    def load(path, *stages: Stage) -> RoleModel:
        return load_model(path=path, stages=frozenset(stages), dtype="float32", device="cpu")

    roles = [load(fetched(stage, share={"id": id}, cache=tmp_path / stage), stage) for stage in STAGES]
    whole = load(checkpoint, *STAGES)

    assert made(*roles, request) == made(whole, whole, whole, request)


def test_in_a_cache_with_two_variants_each_worker_loads_the_one_that_it_was_told_of(fetched, published):
    request = dataclasses.replace(parameters_of(Case("sd3")), images={})
    fetched(*STAGES, share={"variant": VARIANT})
    path = fetched(*STAGES)

    def load(folder, variant: str) -> RoleModel:
        return load_model(path=folder, stages=frozenset(STAGES), dtype="float32", device="cpu", variant=variant)

    whole, half, original = load(path, ""), load(path, VARIANT), load(ensure(FAMILIES["sd3"].checkpoint), "")

    assert made(whole, whole, whole, request) == made(original, original, original, request)
    assert made(half, half, half, request) != made(whole, whole, whole, request)
