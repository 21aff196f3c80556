"""The one place that runs networks: several calls as one forward where that is right, each by itself where it is not.

Calls of one request go together because its family's own pipeline has it so: nothing is tried, learnt or given up, or
bits would depend on what happened before. With calls of others it is another matter. Whether the samples of a batch are
treated apart is the network's own affair and declared nowhere, so the first forward that joins calls of a new shape is
compared with single ones. A forward that fails for many is repeated for each, so that what is wrong with one request
stays its own; one that is out of memory is halved.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import torch

from diffusion_worker.model.calls import Call, Unmergeable, merge, split

MAX_SHAPES: Final = 1024
"""Of which is remembered what may be joined."""
TOLERANCE: Final = 0.05
"""Of the largest value: what joining may change is rounding; what it may not change is which sample is answered."""


@dataclass(slots=True)
class Shape:
    """What is known of calls of one key."""

    checked: bool = False
    together: int | None = None
    """How many calls may be joined, if it is known that not all may."""


class Forwards:
    """Used from one thread, under `torch.no_grad`."""

    def __init__(self) -> None:
        self._shapes: OrderedDict[Hashable, Shape] = OrderedDict()
        self.joined = 0
        """Forwards that answered more than one call."""
        self.alone = 0

    def most(self, call: Call) -> int | None:
        """How many calls like this may be made as one; None: no bound is known."""
        shape = self._shapes.get(call.key)
        return shape.together if shape else None

    def wait(self) -> None:
        """Until the device has done what was asked of it. What fails of that, whoever uses it next is told."""
        if torch.cuda.is_initialized():
            with suppress(RuntimeError):
                torch.cuda.synchronize()

    def run_own(self, calls: Sequence[Call]) -> list[Any | Exception]:
        """What each call of one request returns, or raised. All have one key, and are one forward."""
        if len(calls) == 1:
            return [self._run_one(calls[0])]
        try:
            outputs = split(merge(calls).run(), calls)
        except Unmergeable:
            # They share what can't be shared, whenever this request is computed.
            return [self._run_one(call) for call in calls]
        except torch.OutOfMemoryError as error:
            remedy = f"{len(calls)} branches of guidance were one forward: batching.mode Exact makes {len(calls)} of it"
            return [torch.OutOfMemoryError(f"{error} ({remedy})")] * len(calls)
        except Exception as error:
            return [error] * len(calls)
        self.joined += 1
        return outputs

    def run(self, calls: Sequence[Call]) -> list[Any | Exception]:
        """What each call returns, or raised, whosever they are. All have one key."""
        if len(calls) == 1:
            return [self._run_one(calls[0])]
        shape = self._shape(calls[0])
        if shape.together is not None and len(calls) > shape.together:
            return [answer for part in _parts(calls, shape.together) for answer in self.run(part)]
        try:
            outputs = split(merge(calls).run(), calls)
        except torch.OutOfMemoryError:
            shape.together = max(1, len(calls) // 2)
            return self.run(calls)
        except Exception as error:
            return self._run_each(calls, shape, error)
        if not shape.checked:
            return self._check(calls, outputs, shape)
        self.joined += 1
        return outputs

    def _run_one(self, call: Call) -> Any | Exception:
        self.alone += 1
        try:
            return call.run()
        except Exception as error:
            return error

    def _run_each(self, calls: Sequence[Call], shape: Shape, error: Exception) -> list[Any | Exception]:
        answers = [self._run_one(call) for call in calls]
        if isinstance(error, Unmergeable):
            # Of these very calls; others of the same key may agree.
            return answers
        if not any(isinstance(answer, Exception) for answer in answers):
            shape.together = 1
        return answers

    def _check(self, calls: Sequence[Call], outputs: Sequence[Any], shape: Shape) -> list[Any | Exception]:
        alone = [self._run_one(call) for call in calls]
        if any(isinstance(answer, Exception) for answer in alone):
            return alone
        shape.checked = True
        if all(_alike(output, answer) for output, answer in zip(outputs, alone, strict=True)):
            self.joined += 1
            return list(outputs)
        shape.together = 1
        return alone

    def _shape(self, call: Call) -> Shape:
        shape = self._shapes.get(call.key)
        if shape is None:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.popitem(last=False)
            shape = self._shapes[call.key] = Shape()
        return shape


def _parts(calls: Sequence[Call], size: int) -> list[Sequence[Call]]:
    return [calls[start : start + size] for start in range(0, len(calls), size)]


def _alike(one: Any, other: Any) -> bool:
    """Whether two outputs differ by rounding alone."""
    if isinstance(one, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        if not one.is_floating_point():
            return torch.equal(one, other)
        largest = other.abs().amax() if other.numel() else 0.0
        return bool(((one - other).abs() <= TOLERANCE * largest).all())
    if hasattr(one, "to_tuple"):
        one, other = one.to_tuple(), other.to_tuple()
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_alike(*pair) for pair in zip(one, other, strict=True))
    return one == other
