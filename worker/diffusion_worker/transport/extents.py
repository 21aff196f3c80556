"""Which pages of a pool are free: first fit, neighbours merged. Pure bookkeeping, counted in pages."""

from __future__ import annotations

from bisect import bisect_left, insort


class Extents:
    """Free runs of pages, sorted by start, never touching each other."""

    def __init__(self, pages: int) -> None:
        self._free: list[tuple[int, int]] = [(0, pages)] if pages else []

    @property
    def free(self) -> tuple[tuple[int, int], ...]:
        """(first page, pages) of each run."""
        return tuple(self._free)

    def take(self, pages: int) -> int | None:
        """First page of the lowest run that has `pages` pages, or None."""
        for index, (start, length) in enumerate(self._free):
            if length >= pages:
                if length == pages:
                    del self._free[index]
                else:
                    self._free[index] = (start + pages, length - pages)
                return start
        return None

    def give(self, start: int, pages: int) -> None:
        """Take back what `take` gave."""
        insort(self._free, (start, pages))
        index = bisect_left(self._free, (start, pages))
        if index + 1 < len(self._free) and start + pages == self._free[index + 1][0]:
            pages += self._free.pop(index + 1)[1]
            self._free[index] = (start, pages)
        if index and sum(self._free[index - 1]) == start:
            before, length = self._free[index - 1]
            self._free[index - 1 : index + 1] = [(before, length + pages)]
