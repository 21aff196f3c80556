"""The schedulers that requests may name in the place of the folder's own: which may be, and one for each run.

Each is made as diffusers documents it, from the config of the folder's own with options over it. diffusers passes over
options that a class does not have, and says of classes that they fit whose step then refuses the model's kind of
prediction. So each is tried when a worker starts, on a few numbers: what does not work, does not follow from a
request's seed or could not be parked is refused there, and not in the middle of a job.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import DummyObject

from diffusion_worker.model.checkpoint import Beginning, restore
from diffusion_worker.model.types import InvalidRequest, SchedulerKind, UnsupportedModel

COMPONENT: Final = "scheduler"
"""The component of a pipeline that they stand in for. Others, such as one that adds noise to a picture, stay."""

_STEPS: Final = 5
_CPU: Final = torch.device("cpu")


class Schedulers:
    """Those of one model object."""

    def __init__(
        self, components: Mapping[str, Any], kinds: Sequence[SchedulerKind], *, denoises: bool = False
    ) -> None:
        """`components`: what the object has. A role that runs no scheduler has none, and makes none.

        Raises UnsupportedModel, which names the field and the remedy.
        """
        own = components.get(COMPONENT)
        if own is None and kinds and denoises:
            raise UnsupportedModel(
                "model.schedulers: this model has no component scheduler that others could stand in for: leave them out"
            )
        self.names = tuple(kind.name for kind in kinds)
        self._made = {kind.name: make(own, kind) for kind in kinds} if own is not None else {}

    def check(self, name: str | None) -> None:
        """Raises InvalidRequest for one that is not there."""
        if name and name not in self.names:
            there = ", ".join(self.names) or "none: name them in model.schedulers"
            raise InvalidRequest(f"scheduler: there is no {name!r}; there are: {there}")

    def fresh(self, component: str, name: str) -> Any | None:
        """A new one for a run, as a request wants this component; None: the folder's own.

        New, because a scheduler keeps the state of one denoising, such as the history of a multistep method.
        """
        return copy.deepcopy(self._made[name]) if name and component == COMPONENT else None

    def renew(self, pipeline: Any, components: Mapping[str, Any], name: str, generator: torch.Generator) -> None:
        """Gives a pipeline of blocks new ones for a run. `components`: the folder's own, for those which the pipeline
        has may be what another request named."""
        for component, held in pipeline.components.items():
            if isinstance(held, SchedulerMixin):
                own = components.get(component, held)
                fresh = self.fresh(component, name) or type(own).from_config(own.config)
                draw_from(fresh, generator)
                setattr(pipeline, component, fresh)


def draw_from(scheduler: Any, generator: torch.Generator) -> None:
    """Has its steps draw from the request's generator where the caller gives them none, as some families' blocks."""
    if "generator" in inspect.signature(scheduler.step).parameters:
        scheduler.step = _DrawingStep(scheduler, generator)


class _DrawingStep:
    """A scheduler's `step` with a generator. A copy of the scheduler, as blocks make one for a video's sound, has one
    of its own."""

    def __init__(self, scheduler: Any, generator: torch.Generator) -> None:
        self._scheduler = scheduler
        self._generator = generator
        self.__signature__ = inspect.signature(type(scheduler).step.__get__(scheduler))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return type(self._scheduler).step(self._scheduler, *args, **{"generator": self._generator, **kwargs})

    def __deepcopy__(self, memo: dict[int, Any]) -> _DrawingStep:
        return _DrawingStep(copy.deepcopy(self._scheduler, memo), self._generator)


def is_run_by(specs: Mapping[str, Any]) -> bool:
    """Whether blocks with these components run what a request names."""
    spec = specs.get(COMPONENT)
    hint = getattr(spec, "type_hint", None)
    return isinstance(hint, type) and issubclass(hint, SchedulerMixin)


def make(own: Any, kind: SchedulerKind) -> Any:
    """The folder's own scheduler, as another kind. Raises UnsupportedModel, which names the field and the remedy."""
    field = f"model.schedulers[{kind.name}]"
    made = _compatible(own, kind.class_name, field)
    _check_options(made, kind.options, f"{field}.options")
    try:
        scheduler = made.from_config(own.config, **kind.options)
        straight, again = _run(scheduler), _run(scheduler, draws=1)
        parked = _run(scheduler, park=True)
    except Exception as error:
        # Of many kinds, by what a class checks, and where.
        text = " ".join(str(error).split()) or type(error).__name__
        raise UnsupportedModel(
            f"{field}: {kind.class_name} does not work with this model's {type(own).__name__} config and these "
            f"options: {text}"
        ) from error
    if not straight.isfinite().all():
        raise UnsupportedModel(f"{field}: with these options {kind.class_name} makes numbers that are not finite")
    if not torch.equal(straight, again):
        raise UnsupportedModel(f"{field}: {kind.class_name} draws what no request's seed decides: name another class")
    if not torch.equal(straight, parked):
        raise UnsupportedModel(
            f"{field}: a denoising by {kind.class_name} can't be gone on with elsewhere: name another class"
        )
    return scheduler


def _compatible(own: Any, name: str, field: str) -> Any:
    compatible = {type(own).__name__: type(own), **{one.__name__: one for one in own.compatibles}}
    found = compatible.get(name)
    if found is None:
        able = sorted(one for one, kind in compatible.items() if not isinstance(kind, DummyObject))
        raise UnsupportedModel(
            f"{field}.class: diffusers does not say that {name} is compatible with this model's {type(own).__name__}; "
            f"these are: {', '.join(able)}"
        )
    if isinstance(found, DummyObject):
        raise UnsupportedModel(f"{field}.class: {name} needs {', '.join(found._backends)}, which is not installed")
    return found


def _check_options(made: Any, options: Mapping[str, object], field: str) -> None:
    taken = dict(inspect.signature(made.__init__).parameters)
    del taken["self"]
    for name, value in options.items():
        if name not in taken:
            raise UnsupportedModel(f"{field}.{name}: {made.__name__} has no such option; it has {', '.join(taken)}")
        default = taken[name].default
        wanted = bool if isinstance(default, bool) else str if isinstance(default, str) else None
        number = isinstance(default, int | float) and not isinstance(default, bool)
        given = type(value)
        if (wanted is not None and given is not wanted) or (number and given not in (int, float)):
            shown = "a number" if number else "true or false" if wanted is bool else "a text"
            raise UnsupportedModel(f"{field}.{name}: must be {shown}, such as {default!r}, not {value!r}")


def _run(scheduler: Any, *, park: bool = False, draws: int = 0) -> torch.Tensor:
    """What a few steps make of a few numbers; parked, when gone on with in the middle by another scheduler."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng([]):
        torch.manual_seed(draws)
        sample = torch.randn(1, 4, 8, 8, generator=generator)
        current, beginning = _begun(scheduler)
        sample = sample * float(getattr(current, "init_noise_sigma", 1.0))
        for index, timestep in enumerate(current.timesteps):
            if park and index == len(current.timesteps) // 2:
                state = beginning.difference({COMPONENT: current}, keep_new=frozenset({COMPONENT}))
                current, _ = _begun(scheduler)
                restore({COMPONENT: current}, state, _CPU)
            draw_from(current, generator)
            scaled = current.scale_model_input(sample, timestep) if hasattr(current, "scale_model_input") else sample
            sample = current.step(torch.tanh(scaled), timestep, sample, return_dict=False)[0]
    return sample


def _begun(scheduler: Any) -> tuple[Any, Beginning]:
    begun = copy.deepcopy(scheduler)
    shift = {"mu": 1.0} if begun.config.get("use_dynamic_shifting") else {}
    begun.set_timesteps(_STEPS, device=_CPU, **shift)
    return begun, Beginning({COMPONENT: begun})
