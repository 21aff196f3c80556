"""Who may be reading what a task left, told from events and actions alone (I3)."""

from __future__ import annotations


class Reads:
    """Readers and what they read are tasks, by id."""

    def __init__(self) -> None:
        # By what is read, its readers, and from when on it may be reused nevertheless.
        self._readers: dict[str, dict[str, float | None]] = {}
        self._read_by: dict[str, str] = {}
        # Readers that compute already.
        self._begun: set[str] = set()

    def router_restarts(self, unknown_until: float) -> None:
        """Whoever reads may be unknown to the new life until then."""
        for readers in self._readers.values():
            for reader in readers:
                readers[reader] = unknown_until

    def reads(self, reader: str, output: str) -> None:
        self._readers.setdefault(output, {})[reader] = None
        self._read_by[reader] = output

    def begins(self, reader: str) -> None:
        """It has its own of what it reads: a peer that leaves need not keep that any longer."""
        if reader in self._read_by:
            self._begun.add(reader)

    def ends(self, reader: str) -> None:
        output = self._read_by.pop(reader, None)
        self._begun.discard(reader)
        readers = self._readers.get(output) if output is not None else None
        if output is not None and readers is not None:
            readers.pop(reader, None)
            if not readers:
                del self._readers[output]

    def is_lost(self, reader: str, until: float) -> None:
        """Its peer is, but may live, and read until then."""
        output = self._read_by.pop(reader, None)
        if output is not None and reader in self._readers.get(output, ()):
            self._readers[output][reader] = until

    def is_gone(self, output: str) -> None:
        """With its peer."""
        self._begun.difference_update(self._readers.pop(output, ()))

    def released(self, output: str, now: float, *, leaves: bool) -> str | None:
        """A reader that may be reading it still, if there is one. leaves: its peer does."""
        still = None
        for reader, until in self._readers.pop(output, {}).items():
            begun = reader in self._begun
            self._begun.discard(reader)
            if (until is None or now < until) and not (begun and leaves):
                still = reader
        return still
