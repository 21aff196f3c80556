"""Of new jobs, how many percent begin in which generation, while one generation takes over from another.

A job's place is a hash of its id, so it is the same however often it is asked for, in every life of the router, and
whoever began in the new generation at 20 % does so at 40 %.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import accumulate
from typing import Final
from zlib import crc32

ALL: Final = 100


def checked(percent: Mapping[str, int]) -> dict[str, int]:
    """A copy. Raises ValueError unless they are nothing, or 100 in all."""
    if percent and (sum(percent.values()) != ALL or min(percent.values()) < 0):
        raise ValueError(f"shares are percent of new jobs, and {ALL} in all, not {dict(percent)}")
    return dict(percent)


class Shares:
    """Empty: every job begins wherever there is a place first."""

    def __init__(self) -> None:
        self.percent: dict[str, int] = {}

    def set(self, percent: Mapping[str, int]) -> None:
        """Raises ValueError as `checked` does."""
        self.percent = checked(percent)

    def of(self, job_id: str, but_not: Collection[str] = ()) -> str:
        """The generation in which the job is to begin, and else that with the largest share. Empty: any."""
        place = crc32(job_id.encode()) % ALL
        ends = accumulate(self.percent.values())
        own = next((generation for generation, end in zip(self.percent, ends, strict=True) if place < end), "")
        if own not in but_not:
            return own
        return max((each for each in self.percent if each not in but_not), key=self.percent.__getitem__, default="")
