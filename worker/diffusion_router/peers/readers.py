"""Who was told to pull from whom, so that who did hears when the other is given up.

For each peer that a worker ever pulled from it keeps an engine's process, connections or a mapped pool, and nobody but
the router knows that none is of use any more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Set
from typing import Final

# Of workers' protocol.
KNOWS_PEERS_GONE: Final = 4


class Readers:
    def __init__(self) -> None:
        self._of: defaultdict[str, set[str]] = defaultdict(set)
        """Incarnations that read, by the incarnation that made it."""

    def add(self, reader: str, maker: str) -> None:
        if reader != maker:
            self._of[maker].add(reader)

    def lose(self, incarnation: str) -> Set[str]:
        """Who read from it; as one that reads it is forgotten too."""
        for readers in self._of.values():
            readers.discard(incarnation)
        return self._of.pop(incarnation, set())
