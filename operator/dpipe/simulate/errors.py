"""What may be wrong with what a simulation is given, and with what it finds."""

from __future__ import annotations


class InputError(Exception):
    """A scenario, a trace or an option is not as it must be; the message names file and field."""


class InvariantError(AssertionError):
    """The core did what it must never do. Says which invariant, at which moment, and of what."""


class LostProcessError(Exception):
    """A process that plays runs was ended from outside."""
