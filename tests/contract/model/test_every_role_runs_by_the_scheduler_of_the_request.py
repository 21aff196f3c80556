"""A replayed pipeline is run anew in each role, so each must do as many steps as the denoiser did."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from diffusion_worker.model import RoleModel, SchedulerKind, load_model
from diffusion_worker.model.driving import Direct
from diffusionpipeline.words import STAGES, Stage
from testbed.zoo.cache import ensure
from testbed.zoo.cases import Case, parameters_of
from testbed.zoo.catalogue import FAMILIES

KINDS = (
    SchedulerKind("as-asked", "EulerDiscreteScheduler"),
    SchedulerKind("one-more", "PNDMScheduler", {"skip_prk_steps": True}),
    SchedulerKind("twice", "HeunDiscreteScheduler"),
)


@pytest.mark.parametrize("own", ["EulerDiscreteScheduler", "PNDMScheduler"])
@pytest.mark.parametrize("name", [one.name for one in KINDS])
def test_whatever_the_models_own_makes_of_the_steps(tmp_path: Path, own: str, name: str) -> None:
    folder = Path(shutil.copytree(ensure(FAMILIES["sd15"].checkpoint), tmp_path / "model"))
    for file, change in (
        ("model_index.json", {"scheduler": ["diffusers", own]}),
        ("scheduler/scheduler_config.json", {"_class_name": own, "skip_prk_steps": True}),
    ):
        (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | change))

    def load(*stages: Stage) -> RoleModel:
        return load_model(path=folder, stages=frozenset(stages), dtype="float32", device="cpu", schedulers=KINDS)

    request = dataclasses.replace(parameters_of(Case("sd15")), scheduler=name)
    encoder, denoiser, decoder = (load(stage) for stage in STAGES)
    whole = load(*STAGES)

    apart = decoder.decode(denoiser.denoise(encoder.encode(request), request, Direct()))
    assert apart == whole.decode(whole.denoise(whole.encode(request), request, Direct()))
