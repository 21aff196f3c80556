"""Tasks that wait behind others on their peer, and which of them others could start at once.

Peers are looked through only for places where another one is idle.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping
from itertools import islice
from operator import attrgetter
from typing import Generic

from diffusion_router.core.events import R, Stage
from diffusion_router.core.offers import NONE, Names
from diffusion_router.core.peer import Peer
from diffusion_router.core.state import Job, Task

Place = tuple[Stage, str]
"""Peers of a stage and a generation."""
# What a task's job avoids, and the adapters that it needs. None: it is asked back already.
_Kind = tuple[frozenset[str], Names] | None


class Behind(Generic[R]):
    def __init__(self, jobs: Mapping[str, Job[R]], peers: Mapping[str, Peer[R]]) -> None:
        self._jobs = jobs
        self._peers = peers
        self._tasks: dict[Place, dict[_Kind, dict[str, Task[R]]]] = defaultdict(dict)
        # Where each is, by peer. Peers that have changed since their tasks were entered.
        self._listed: dict[str, dict[str, tuple[Place, _Kind]]] = {}
        self._unlisted: dict[Place, dict[str, Peer[R]]] = defaultdict(dict)
        self._looked_at = False

    def seat(self, peer: Peer[R]) -> None:
        """To be called when the peer comes or goes."""
        self._looked_at = False
        self._list(peer)
        for of_place in self._unlisted.values() if peer.incarnation not in self._peers else ():
            of_place.pop(peer.incarnation, None)

    def changed(self, peer: Peer[R]) -> None:
        """To be called when the peer owns other tasks, could start more or fewer, or has one that waits no more, or is
        asked back."""
        self._looked_at = False
        for stage in peer.stages:
            self._unlisted[stage, peer.generation][peer.incarnation] = peer

    def look(self) -> bool:
        """Whether anything has changed since the last look."""
        looked_at, self._looked_at = self._looked_at, True
        return not looked_at

    def anywhere(self, place: Place) -> bool:
        """Whether any wait there."""
        if place in self._unlisted:
            for peer in self._unlisted.pop(place).values():
                self._list(peer)
        return place in self._tasks

    def longest(self, place: Place, idle: Mapping[Peer[R], int]) -> list[Task[R]]:
        """Of those that wait there the longest waiting. idle: peers, and how many tasks each could start."""
        by_kind = self._tasks.get(place, {})
        # Tasks on their way back will take idle places too.
        places = sum(idle.values()) - len(by_kind.get(None, ()))
        movable = [
            tasks.values()
            for kind, tasks in by_kind.items()
            if kind is not None and any(peer.incarnation not in kind[0] and kind[1] <= peer.offered for peer in idle)
        ]
        return list(islice(heapq.merge(*movable, key=attrgetter("sent_at")), max(0, places)))

    def _list(self, peer: Peer[R]) -> None:
        before = self._listed.pop(peer.incarnation, {})
        crowded = peer.load > 0 and peer.incarnation in self._peers
        if not (before or crowded):
            return
        now: dict[str, tuple[Place, _Kind]] = {}
        for task in peer.tasks.values() if crowded else ():
            job = self._jobs.get(task.job_id)
            if job is not None and task.could_move:
                kind = (job.avoid, job.adapters if task.stage is Stage.DENOISE else NONE)
                now[task.id] = ((task.stage, peer.generation), None if task.revoked else kind)
        if now:
            self._listed[peer.incarnation] = now
        for task_id, (place, before_kind) in before.items():
            if now.get(task_id) != (place, before_kind):
                of_place = self._tasks[place]
                del of_place[before_kind][task_id]
                if not of_place[before_kind]:
                    del of_place[before_kind]
                if not of_place:
                    del self._tasks[place]
        for task_id, (place, now_kind) in now.items():
            self._tasks[place].setdefault(now_kind, {})[task_id] = peer.tasks[task_id]
