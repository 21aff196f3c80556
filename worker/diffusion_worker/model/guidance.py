"""Guidance in one forward: the calls of all branches of a step are asked at once.

A block that guides calls its network once a branch, one after the other. Here it is run once for each branch as far as
that call, with the guider's inputs narrowed to that branch; then all calls go out as one question; then the block runs
as it is and is given the answers. So neither block nor guider ever sees a value that is not real, and nothing is known
of any family. Guiders that change the network itself (by hooks on its layers) can't be asked apart: their block runs
undivided, and nobody else's call comes between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final

from diffusers.guiders.guider_utils import BaseGuidance

from diffusion_worker.model.standins import Questions

_PREPARE: Final = ("prepare_inputs", "prepare_inputs_from_block_state")
_BRANCH: Final = BaseGuidance._identifier_key


class Gathered:
    """In the place of a loop's leaf block that declares a guider. in_one: whether its branches may be asked at once."""

    def __init__(self, block: Any, questions: Questions, *, in_one: bool) -> None:
        self._block = block
        self._questions = questions
        self._in_one = in_one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)

    def __call__(self, components: Any, block_state: Any, *args: Any, **indices: Any) -> Any:
        guiders = [one for one in components.components.values() if isinstance(one, BaseGuidance)]

        def run() -> Any:
            with _told_all_steps(block_state):
                return self._block(components, block_state, *args, **indices)

        if any(_changes_networks(guider) for guider in guiders):
            with self._questions.inline():
                return run()
        driver = self._questions.driver
        if driver is None or not (self._in_one and driver.gathers):
            return run()
        calls = _collect(guiders, self._questions, run)
        return run() if calls is None else self._questions.gather(calls, run)


def is_guider(spec: Any) -> bool:
    """Whether a component's specification is a guider's."""
    return isinstance(spec.type_hint, type) and issubclass(spec.type_hint, BaseGuidance)


@contextmanager
def _told_all_steps(block_state: Any) -> Iterator[None]:
    """Guiders take a step's place among the request's steps, and are off beyond the last. Some schedulers make more of
    them than were asked for (one of second order almost twice as many), and classic pipelines guide them all."""
    asked = getattr(block_state, "num_inference_steps", None)
    timesteps = getattr(block_state, "timesteps", None)
    if asked is None or timesteps is None or len(timesteps) <= asked:
        yield
        return
    block_state.num_inference_steps = len(timesteps)
    try:
        yield
    finally:
        block_state.num_inference_steps = asked


def _changes_networks(guider: BaseGuidance) -> bool:
    return type(guider).prepare_models is not BaseGuidance.prepare_models


def _collect(guiders: Sequence[BaseGuidance], questions: Questions, run: Callable[[], object]) -> list[Any] | None:
    """Each branch's call; None: there is but one, or a branch makes none."""
    calls = []
    with _narrowed(guiders) as branches:
        # The first branch alone is not narrowed: only a run shows which branches there are.
        call = questions.call_of(run)
        if call is None or len(branches.names) < 2:
            return None
        calls.append(call)
        for name in branches.names[1:]:
            branches.only = name
            call = questions.call_of(run)
            if call is None:
                return None
            calls.append(call)
    return calls


class _Branches:
    def __init__(self) -> None:
        self.names: list[str] = []
        self.only: str | None = None

    def narrow(self, batches: Sequence[Any]) -> Sequence[Any]:
        """The batches of the branch that is wanted; all of them as long as none is."""
        self.names += [name for batch in batches if (name := getattr(batch, _BRANCH)) not in self.names]
        return batches if self.only is None else [one for one in batches if getattr(one, _BRANCH) == self.only]


@contextmanager
def _narrowed(guiders: Sequence[BaseGuidance]) -> Iterator[_Branches]:
    branches = _Branches()

    def narrowed(prepare: Callable[..., Sequence[Any]]) -> Callable[..., Sequence[Any]]:
        @wraps(prepare)
        def prepare_some(*args: Any, **kwargs: Any) -> Sequence[Any]:
            return branches.narrow(prepare(*args, **kwargs))

        return prepare_some

    for guider in guiders:
        for name in _PREPARE:
            guider.__dict__[name] = narrowed(getattr(guider, name))
    try:
        yield branches
    finally:
        for guider in guiders:
            for name in _PREPARE:
                guider.__dict__.pop(name, None)
