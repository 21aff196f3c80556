"""A classic pipeline's denoising in steps: reported, parked, and gone on with from a checkpoint.

The pipeline's own code runs from its beginning once more, but its finished steps cost nothing: the scheduler's `step`
gives what it gave last before the checkpoint, and networks give zeros of the shapes that they gave. At the last
finished step scheduler, generator and global draws become what they were, and from there all is real.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from typing import Any, Final, Self, TypedDict, cast

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from diffusion_worker.model.calls import Call
from diffusion_worker.model.checkpoint import Beginning, restore
from diffusion_worker.model.driving import Driver
from diffusion_worker.model.loops import Parked
from diffusion_worker.model.records import pack, unpack
from diffusion_worker.model.taps import Taps
from diffusion_worker.model.types import ModelError, UnsupportedModel

_CUDA: Final = "cuda"


class Outline(TypedDict):
    """The outline of a denoiser's output."""

    output: object
    times: int
    """In a row."""


class Retraced(TypedDict):
    """A denoising after `step` steps, in which schedulers made `calls`."""

    step: int
    calls: int
    results: dict[str, object]
    """What each scheduler gave last, by its name."""
    outputs: dict[str, list[Outline]]
    generator: torch.Tensor
    draws: dict[str, torch.Tensor]
    state: Mapping[str, Any]


class Outlines:
    """What each network gave, as shapes: written down as it gives them, or given anew."""

    def __init__(self, kept: Mapping[str, Sequence[Outline]]) -> None:
        self.kept = {name: [entry.copy() for entry in entries] for name, entries in kept.items()}
        self._pending = {name: [entry.copy() for entry in entries] for name, entries in kept.items()}

    def add(self, name: str, output: object) -> None:
        """Equal ones in a row are counted."""
        entries = self.kept.setdefault(name, [])
        if entries and entries[-1]["output"] == output:
            entries[-1]["times"] += 1
        else:
            entries.append({"output": output, "times": 1})

    def take(self, name: str) -> object:
        """The next of those that were kept. Raises ModelError if there are no more."""
        entries = self._pending.get(name)
        if not entries:
            raise ModelError(f"{name} was called more often than when it denoised")
        entries[0]["times"] -= 1
        return entries[0]["output"] if entries[0]["times"] else entries.pop(0)["output"]


class Retrace:
    """Of one run of a pipeline, whose schedulers, generator and denoisers' outlines these are."""

    def __init__(
        self,
        driver: Driver,
        schedulers: Mapping[str, Any],
        generator: torch.Generator,
        device: torch.device,
        resume: Retraced | None,
    ) -> None:
        self._driver = driver
        self._schedulers = schedulers
        self._generator = generator
        self._device = device
        self._resume = resume
        self.outlines = Outlines(resume["outputs"] if resume else {})
        self._beginning: Beginning | None = None
        self._calls = 0
        self._last: dict[str, Any] = {}

    @property
    def skips(self) -> bool:
        """Whether what runs now is a step that is over already."""
        return self._resume is not None and self._looping

    @property
    def repeats(self) -> bool:
        """Whether what runs now was done before the first step, of which every later one may need what it made."""
        return self._resume is not None and not self._looping

    def attach(self, taps: Taps, pipeline: Any) -> None:
        """Listens to the schedulers and to the progress bar, which every family moves once after each step."""
        for name, scheduler in self._schedulers.items():
            taps.put(scheduler, "step", self._stepped(name, scheduler.step))
        taps.put(pipeline, "progress_bar", self._begin_loop)

    def _begin_loop(self, iterable: Sequence[Any] | None = None, total: int | None = None) -> ProgressBar:
        self._looping = True
        return ProgressBar(self._report, iterable, total)

    def _stepped(self, name: str, step: Any) -> Any:
        @wraps(step)
        def stepped(*args: Any, **kwargs: Any) -> Any:
            if self._beginning is None:
                self._beginning = Beginning(self._schedulers)
            self._calls += 1
            if self._resume is None:
                self._last[name] = step(*args, **kwargs)
                return self._last[name]
            result = unpack(self._resume["results"][name], self._device, self._generator)
            if self._calls == self._resume["calls"]:
                self._arrive(self._resume)
            self._last[name] = result
            return result

        return stepped

    def _arrive(self, resume: Retraced) -> None:
        restore(self._schedulers, resume["state"], self._device)
        self._generator.set_state(resume["generator"])
        _set_draws(resume["draws"])
        self._arrived_at = resume["step"]
        self._resume = None

    _arrived_at = 0
    _looping = False

    def _report(self, step: int, steps: int) -> None:
        if self._resume is not None or step <= self._arrived_at:
            return
        checkpoint = partial(self._checkpoint, step)
        if self._driver.step(step, steps, checkpoint) and step < steps:
            raise Parked(cast(Any, checkpoint()))

    def _checkpoint(self, step: int) -> Retraced:
        if self._beginning is None:
            raise UnsupportedModel("can't be parked: no scheduler of the pipeline made a step")
        return {
            "step": step,
            "calls": self._calls,
            "results": {
                name: pack(last, "the scheduler's step", self._generator, layout=True)
                for name, last in self._last.items()
            },
            "outputs": self.outlines.kept,
            "generator": self._generator.get_state(),
            "draws": _draws(self._device),
            "state": self._beginning.difference(self._schedulers, keep_new=frozenset(self._schedulers)),
        }


class OwnDraws:
    """A driver for code that draws from torch's global generators: whoever computes meanwhile does not disturb them."""

    def __init__(self, driver: Driver, device: torch.device) -> None:
        self._driver = driver
        self._device = device

    @property
    def gathers(self) -> bool:
        return self._driver.gathers

    def ask(self, calls: Sequence[Call]) -> list[Any]:
        draws = _draws(self._device)
        try:
            return self._driver.ask(calls)
        finally:
            _set_draws(draws)

    def step(self, step: int, steps: int, checkpoint: Callable[[], object]) -> bool:
        return self._driver.step(step, steps, checkpoint)


class ProgressBar:
    """Stands in for a pipeline's progress bar."""

    def __init__(self, report: Any, iterable: Sequence[Any] | None, total: int | None) -> None:
        self._report = report
        self._iterable = iterable
        self._done = 0
        self._total = total if iterable is None or total is not None else len(iterable)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __iter__(self) -> Iterator[Any]:
        # Some pipelines give a tensor, which has no truth of its own.
        for item in () if self._iterable is None else self._iterable:
            yield item
            self.update()

    def update(self, steps: int = 1) -> None:
        """Reports one step more."""
        self._done += steps
        self._report(self._done, max(self._done, self._total or 0))

    def set_description(self, *_: object) -> None:
        """Part of what pipelines call on a progress bar; there is nothing to draw."""

    def close(self) -> None:
        """Part of what pipelines call on a progress bar; there is nothing to close."""


def schedulers_of(components: Mapping[str, Any]) -> dict[str, Any]:
    """Those among a pipeline's components, by name."""
    return {name: one for name, one in components.items() if isinstance(one, SchedulerMixin)}


def _draws(device: torch.device) -> dict[str, torch.Tensor]:
    draws = {"cpu": torch.get_rng_state()}
    if device.type == _CUDA:
        draws[_CUDA] = torch.cuda.get_rng_state(device)
    return draws


def _set_draws(draws: Mapping[str, torch.Tensor]) -> None:
    torch.set_rng_state(draws["cpu"])
    if _CUDA in draws:
        torch.cuda.set_rng_state(draws[_CUDA])
