"""Workers that download their share of the model: what they said last, for whoever lists the peers.

Nothing is decided by it. What is said here needs no registration, so it is bounded, and forgotten by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from diffusionpipeline.v1 import registry_pb2, stage_pb2

FORGET_SECONDS: Final = 30.0
"""A few times as long as workers take to say it again."""
MAX_WORKERS: Final = 1024
MAX_TEXT: Final = 253

_ROLES: Final = frozenset(stage_pb2.Role.values()) - {stage_pb2.ROLE_UNSPECIFIED}


class Loadings:
    """By the pod's name."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, tuple[float, registry_pb2.Loading]] = {}

    def note(self, loading: registry_pb2.Loading) -> None:
        """Raises ValueError for what no worker says."""
        if not 0 < len(loading.pod_name) <= MAX_TEXT or len(loading.generation) > MAX_TEXT:
            raise ValueError(f"loading.pod_name: must have 1 to {MAX_TEXT} characters, and generation not more")
        if not loading.roles or not _ROLES.issuperset(loading.roles) or len(loading.roles) > len(_ROLES):
            raise ValueError("loading.roles: must be roles of a worker, each once")
        if loading.bytes > loading.size:
            raise ValueError("loading.bytes: can't be more than size")
        self._told.pop(loading.pod_name, None)
        if len(self._told) >= MAX_WORKERS:
            # The one that has said nothing for longest.
            del self._told[next(iter(self._told))]
        self._told[loading.pod_name] = (self._clock(), loading)

    def current(self) -> list[registry_pb2.Loading]:
        """By name of the pod."""
        since = self._clock() - FORGET_SECONDS
        self._told = {name: told for name, told in self._told.items() if told[0] >= since}
        return [loading for _, (_, loading) in sorted(self._told.items())]
