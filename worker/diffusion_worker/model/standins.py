"""Stand-ins for networks: what a pipeline calls is not the network but a question, which somebody else answers.

A stand-in shares everything with its network, weights, config, dtype, device, and takes no memory: only its `forward`
is another. Whoever drives the denoising (see `driving.py`) decides when a network is called, and with whom.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch

from diffusion_worker.model.calls import Call, bind
from diffusion_worker.model.driving import Driver
from diffusion_worker.model.types import ModelError

if TYPE_CHECKING:
    from diffusion_worker.model.adapters import Chosen
    from diffusion_worker.model.ip_adapters import Shown


class Asked(BaseException):
    """Ends a block where it calls a network, with the call. A BaseException, for blocks log Exceptions."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call


class Questions:
    """What the stand-ins of one pipeline share: one call at a time goes to `driver`, or all of `gathered` at once."""

    def __init__(self) -> None:
        self.driver: Driver | None = None
        """Whose denoising runs just now."""
        self.adapters: Chosen | None = None
        """That its networks compute with."""
        self.shown: Shown | None = None
        self._collecting = False
        self._answers: list[tuple[Call, Any]] | None = None
        self._inline = False

    def put(self, call: Call) -> Any:
        """What the network returns for one call."""
        if self._inline:
            return call.run()
        if self._collecting:
            raise Asked(call)
        if self._answers is None:
            assert self.driver is not None, "a stand-in is only called while somebody drives its pipeline"
            return self.driver.ask([call])[0]
        if not self._answers or self._answers[0][0].network is not call.network:
            raise ModelError("guidance can't be gathered: a branch calls other networks than when it was asked")
        return self._answers.pop(0)[1]

    @contextmanager
    def inline(self) -> Iterator[None]:
        """Networks are called at once, and nobody else's call comes between."""
        self._inline = True
        try:
            yield
        finally:
            self._inline = False

    def call_of(self, run: Callable[[], object]) -> Call | None:
        """The first call that `run` makes, which ends it; None: it makes none."""
        self._collecting = True
        try:
            run()
        except Asked as asked:
            return asked.call
        finally:
            self._collecting = False
        return None

    def gather(self, calls: list[Call], run: Callable[[], Any]) -> Any:
        """Asks all of these at once; returns what `run` does, which is to make the very same calls in this order."""
        assert self.driver is not None
        self._answers = list(zip(calls, self.driver.ask(calls), strict=True))
        try:
            result = run()
            if self._answers:
                raise ModelError("guidance can't be gathered: a branch did not call its network again")
        finally:
            self._answers = None
        return result


def stand_in(network: torch.nn.Module, questions: Questions) -> torch.nn.Module:
    """A module like `network` whose calls are questions."""
    twin = copy.copy(network)
    forward = network.forward
    # Not Signature.bind, which takes longer than all else that is done to ask.
    parameters = inspect.signature(forward).parameters.values()
    names = [one.name for one in parameters if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]

    @wraps(forward)
    def ask(*args: Any, **kwargs: Any) -> Any:
        shown = questions.shown if questions.shown is not None and questions.shown.is_for(network) else None
        return questions.put(bind(network, names, args, kwargs, questions.adapters, shown))

    # Past nn.Module's own __setattr__.
    twin.__dict__["forward"] = ask
    # It names the branch to step caches, of which none is on; it would look for them in every layer, at every call.
    twin.__dict__["cache_context"] = lambda _name: nullcontext()
    return twin
