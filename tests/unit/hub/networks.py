"""Networks small enough to say by hand what they must answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from diffusion_worker.model.calls import Call


class Doubler(torch.nn.Module):
    """`factor` times `x`, plus `t`, sample by sample. `fails` decides by the whole batch whether it raises."""

    def __init__(
        self, fails: Callable[[torch.Tensor], BaseException | None] = lambda _x: None, *, factor: float = 2
    ) -> None:
        super().__init__()
        self.factor = factor
        self.fails = fails
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.batches.append(x.shape[0])
        error = self.fails(x)
        if error is not None:
            raise error
        return self.factor * x + t.reshape(-1, *(1 for _ in x.shape[1:]))


class Mixer(torch.nn.Module):
    """Each sample gets the mean of its batch: the calls of such a network must not be joined."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.mean(0, keepdim=True)


def call(network: torch.nn.Module, value: float, *, t: float = 0.0, shape: Sequence[int] = (1, 4, 3)) -> Call:
    """`network(x, t)`, with `x` all of one value."""
    arguments: dict[str, Any] = {"x": torch.full(tuple(shape), value), "t": torch.tensor(t)}
    return Call(network, arguments, "x")
