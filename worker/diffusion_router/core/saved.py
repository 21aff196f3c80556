"""What became of checkpoints of denoisings that go on, and how many steps were lost: since the router started."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum


class Outcome(StrEnum):
    KEPT = "kept"
    """Another peer has it."""
    LEFT_OUT = "left_out"
    """It was due, and no other denoiser of the generation could keep it, or there was no room for it."""
    RESUMED = "resumed"
    """The denoising was lost, and goes on from it."""


class Saved:
    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.lost_steps = 0
        """Steps that are known to have been made, and are made again, whether there was a checkpoint or not."""
