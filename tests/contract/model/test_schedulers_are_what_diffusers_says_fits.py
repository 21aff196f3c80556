"""A scheduler of the resource's list works with the model's own config, or is refused in words when a worker starts."""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import diffusers
import pytest
import torch

from diffusion_worker.model import InvalidRequest, Parameters, SchedulerKind, UnsupportedModel, load_model
from diffusion_worker.model.binding import encoding_reads
from diffusion_worker.model.cut import Pieces
from diffusion_worker.model.schedulers import Schedulers, draw_from, make
from diffusionpipeline.words import Stage
from testbed.zoo.cache import ensure
from testbed.zoo.catalogue import FLUX

NOISE = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
FLOW = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
STEPPED_FLOW = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
MULTISTEP, ANCESTRAL = "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler"

# At each step diffusers' schedulers hand torch's tensors to numpy functions, whose protocol of numpy 2 torch lacks.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


@pytest.mark.parametrize(
    "name", sorted(one.__name__ for one in NOISE.compatibles if one.__name__ != "DPMSolverSDEScheduler")
)
def test_each_that_diffusers_says_is_compatible_with_a_model_of_noise_is_taken(name: str) -> None:
    made = make(NOISE, SchedulerKind("a", name))
    assert type(made).__name__ == name
    if name != "EDMEulerScheduler":
        assert made.config["beta_end"] == 0.012, "the rest of the config is the model's own"


@pytest.mark.parametrize(
    ("own", "kind", "words"),
    [
        (FLOW, SchedulerKind("a", ANCESTRAL), r"model.schedulers\[a\].class: .* EulerAncestral.* is compatible with "),
        (FLOW, SchedulerKind("a", ANCESTRAL), r"FlowMatchEulerDiscreteScheduler; these are: FlowMatchEulerDiscreteS"),
        (NOISE, SchedulerKind("a", "FlowMatchEulerDiscreteScheduler"), "these are: DDIMScheduler, DDPMScheduler, DEI"),
        (NOISE, SchedulerKind("a", "NoScheduler"), "diffusers does not say that NoScheduler is compatible"),
        (NOISE, SchedulerKind("a", "AutoencoderKL"), "does not say that AutoencoderKL is compatible"),
        (NOISE, SchedulerKind("a", "DPMSolverSDEScheduler"), "DPMSolverSDEScheduler needs .*torchsde.* not installed"),
        (
            STEPPED_FLOW,
            SchedulerKind("a", "EulerDiscreteScheduler"),
            r"model.schedulers\[a\]: EulerDiscreteScheduler does not work with this model's UniPC.* flow_prediction",
        ),
        (
            NOISE,
            SchedulerKind("a", MULTISTEP, {"use_karras": True}),
            r"model.schedulers\[a\].options.use_karras: DPM.* has no such option; it has num_train_timesteps, beta_",
        ),
        (NOISE, SchedulerKind("a", MULTISTEP, {"self": 1}), "has no such option"),
        (
            NOISE,
            SchedulerKind("a", MULTISTEP, {"use_karras_sigmas": "true"}),
            "options.use_karras_sigmas: must be true or false, such as False, not 'true'",
        ),
        (NOISE, SchedulerKind("a", MULTISTEP, {"solver_order": True}), "solver_order: must be a number, such as 2"),
        (NOISE, SchedulerKind("a", MULTISTEP, {"algorithm_type": 1}), "algorithm_type: must be a text, such as 'dpm"),
        (NOISE, SchedulerKind("a", MULTISTEP, {"algorithm_type": "x"}), "does not work with this .* options: x is not"),
        (NOISE, SchedulerKind("a", MULTISTEP, {"beta_end": 9.0}), "makes numbers that are not finite"),
    ],
)
def test_one_that_does_not_fit_is_refused_with_the_field_and_what_fits(own: Any, kind: Any, words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        make(own, kind)


def test_one_that_draws_what_no_seed_decides_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Any, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        return (sample + torch.randn(sample.shape),)

    monkeypatch.setattr(diffusers.DDIMScheduler, "step", step)
    with pytest.raises(UnsupportedModel, match=r"schedulers\[a\]: DDIMScheduler draws what no request's seed decides"):
        make(NOISE, SchedulerKind("a", "DDIMScheduler"))


def test_one_that_could_not_be_parked_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    memory: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

    def step(self: Any, model_output: Any, timestep: Any, sample: Any, return_dict: bool = True) -> Any:
        memory[self] = memory.get(self, 0.0) + 1
        return (sample + memory[self],)

    monkeypatch.setattr(diffusers.DDIMScheduler, "step", step)
    with pytest.raises(UnsupportedModel, match=r"schedulers\[a\]: a denoising by DDIMScheduler can't be gone on with"):
        make(NOISE, SchedulerKind("a", "DDIMScheduler"))


def test_a_worker_with_one_that_does_not_fit_does_not_start_whichever_role_runs_it() -> None:
    wrong = [SchedulerKind("a", ANCESTRAL)]
    with pytest.raises(UnsupportedModel, match=r"model.schedulers\[a\].class"):
        load_model(
            path=ensure(FLUX), stages=frozenset({Stage.DENOISE}), dtype="float32", device="cpu", schedulers=wrong
        )


def test_of_a_model_without_a_scheduler_none_is_listed_but_for_roles_that_would_run_none() -> None:
    listed = [SchedulerKind("a", ANCESTRAL)]
    assert Schedulers({}, listed).names == ("a",)
    with pytest.raises(UnsupportedModel, match=r"model\.schedulers: this model has no component scheduler"):
        Schedulers({}, listed, denoises=True)


def test_a_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    schedulers = Schedulers({"scheduler": NOISE}, [SchedulerKind("b", MULTISTEP), SchedulerKind("a", ANCESTRAL)])
    schedulers.check("a")
    schedulers.check(None)
    with pytest.raises(InvalidRequest, match="scheduler: there is no 'c'; there are: b, a"):
        schedulers.check("c")
    with pytest.raises(InvalidRequest, match=r"there are: none: name them in model\.schedulers"):
        Schedulers({"scheduler": NOISE}, []).check("c")
    model = load_model(path=ensure(FLUX), stages=frozenset({Stage.ENCODE}), dtype="float32", device="cpu")
    with pytest.raises(InvalidRequest, match="scheduler: there is no 'c'"):
        model.encode(Parameters(prompt="x", seed=0, scheduler="c"))


@pytest.mark.parametrize("runs", [False, True])
def test_encoding_blocks_that_run_a_scheduler_read_which_one_a_request_names(runs: bool) -> None:
    """Else two requests that differ in it alone would share what one of them encoded."""
    from diffusers.modular_pipelines import ComponentSpec, InputParam, ModularPipelineBlocks

    class Encoding(ModularPipelineBlocks):
        @property
        def expected_components(self) -> Any:
            return [ComponentSpec("scheduler", diffusers.EulerDiscreteScheduler)] if runs else []

        @property
        def inputs(self) -> Any:
            return [InputParam("prompt")]

    class OfCut:
        family: Any = None

    reads = encoding_reads(Pieces({stage: Encoding() for stage in Stage}), OfCut())  # type: ignore[arg-type]
    assert reads == ({"prompt", "scheduler"} if runs else {"prompt"})


def test_a_copy_steps_by_itself_and_draws_from_the_same_generator() -> None:
    """As blocks copy one for the sound of a video."""
    scheduler = diffusers.EulerAncestralDiscreteScheduler.from_config(NOISE.config)
    scheduler.set_timesteps(2)
    draw_from(scheduler, torch.Generator().manual_seed(1))
    copied = copy.deepcopy(scheduler)

    latents = torch.ones(1, 4, 8, 8)
    by_copy = copied.step(latents, copied.timesteps[0], latents, return_dict=False)[0]

    assert (copied.step_index, scheduler.step_index) == (1, None)
    itself = scheduler.step(latents, scheduler.timesteps[0], latents, return_dict=False)[0]
    assert not torch.equal(by_copy, itself), "the copy has drawn already"
    drawn = torch.Generator().manual_seed(1)
    again = diffusers.EulerAncestralDiscreteScheduler.from_config(NOISE.config)
    again.set_timesteps(2)
    expected = again.step(latents, again.timesteps[0], latents, generator=drawn, return_dict=False)[0]
    assert torch.equal(by_copy, expected)
