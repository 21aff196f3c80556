"""Taps on the methods of one pipeline object and its components, set for one run and gone after it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from functools import wraps
from types import TracebackType
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline

Method = Callable[..., Any]
Answer = Callable[[str, int, Method, tuple[Any, ...], dict[str, Any]], Any]
"""(name, which call of that name, the method, args, kwargs) -> what the call returns."""


class Reached(BaseException):
    """Ends a run where it is cut. A BaseException, for pipelines handle Exceptions of their own."""


class Taps:
    """Replaced methods, put back on exit.

    `depth` is 0 while `__call__` itself runs and 1 in the pipeline's methods: a record stands for a whole call that
    `__call__` made, and what such a method calls in turn is its own affair.
    """

    def __init__(self) -> None:
        self.depth = 0
        self._calls: Counter[str] = Counter()
        self._undo: list[Callable[[], object]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._undo:
            self._undo.pop()()

    def put(self, owner: Any, attribute: str, value: Any) -> None:
        """Puts `value` in the place of one object's method or attribute."""
        # Past nn.Module's and DiffusionPipeline's own __setattr__, which would register it.
        owner.__dict__[attribute] = value
        self._undo.append(lambda: owner.__dict__.pop(attribute, None))

    def hear(self, module: torch.nn.Module, heard: Callable[[], None]) -> None:
        """Calls `heard` before each forward of a module."""
        self._undo.append(module.register_forward_pre_hook(lambda *_: heard()).remove)

    def handle(self, component: Any, attribute: str, name: str, answer: Answer) -> None:
        """Lets `answer` handle each call of a component's method, if it has that method.

        The call number counts those that `__call__` itself makes.
        """
        original = getattr(component, attribute, None)
        if original is None:
            return

        @wraps(original)
        def tapped(*args: Any, **kwargs: Any) -> Any:
            if not self.depth:
                self._calls[name] += 1
            return answer(name, self._calls[name], original, args, kwargs)

        self.put(component, attribute, tapped)

    def methods(self, pipeline: Any, answer: Answer) -> None:
        """Lets `answer` handle each call that `__call__` itself makes of a method of its own class."""
        for name in _own_methods(type(pipeline)):
            self.put(pipeline, name, self._from_call(name, getattr(pipeline, name), answer))

    def _from_call(self, name: str, original: Method, answer: Answer) -> Method:
        @wraps(original)
        def tapped(*args: Any, **kwargs: Any) -> Any:
            if self.depth:
                return original(*args, **kwargs)
            self._calls[name] += 1
            self.depth += 1
            try:
                return answer(name, self._calls[name], original, args, kwargs)
            finally:
                self.depth -= 1

        return tapped


def _own_methods(pipeline_class: Any) -> Iterator[str]:
    """Methods that a pipeline class adds to DiffusionPipeline, without its loaders' (they change components)."""
    for name in dir(pipeline_class):
        static = inspect.getattr_static(pipeline_class, name)
        if name.startswith("__") or isinstance(static, property | classmethod) or hasattr(DiffusionPipeline, name):
            continue
        module = getattr(getattr(pipeline_class, name), "__module__", None) or ""
        if callable(getattr(pipeline_class, name)) and module.startswith("diffusers.pipelines."):
            yield name
