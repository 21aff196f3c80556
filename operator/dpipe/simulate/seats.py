"""What a peer was given and has not given back, as far as events and actions say (I4)."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffusion_router.core import Stage


@dataclass(slots=True)
class Given:
    """A task that a peer was sent and has not ended."""

    job_id: str
    slots: int


@dataclass(slots=True)
class Seat:
    """A peer that may be given tasks."""

    stages: frozenset[Stage]
    capacity: int
    slots: int
    given: dict[str, Given] = field(default_factory=dict)
    copies: dict[str, Given] = field(default_factory=dict)
    """Tasks that compute nothing and take no place: they keep what another peer made."""
    outputs: dict[str, int] = field(default_factory=dict)
    """By task, the slots that what it left takes."""
    parking: set[str] = field(default_factory=set)
    """Tasks that are to end at their next step: their places are as good as free."""
    used: int = 0
    idle: tuple[Stage, ...] = ()
    """It computes nothing: stages of which it could begin a task at once."""
