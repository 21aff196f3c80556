"""What no order can exceed, and what simple ones without a router reach: stands beside what a policy does."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Final

from diffusion_router.core import Stage
from dpipe.simulate.fleet import Fleet
from dpipe.simulate.load import Request

_SHIFTS: Final = 8
# (from when on, until when, work)
Window = tuple[float, float, float]


def best_in_time(requests: Sequence[Request], fleet: Fleet, target_factor: float) -> float:
    """An upper bound of the share of jobs that any order can bring within their targets, all requests known before.

    For every set of stages, the peers that do any of them are taken as one machine of their joint speed, which may
    interrupt, go on with and leave undone any part of a job at no cost.
    """
    best = 1.0
    for stages in [frozenset(some) for size in (1, 2, 3) for some in combinations(Stage, size)]:
        speed = sum(group.peers * group.throughput for group in fleet.groups if group.stages & stages)
        windows = list(_windows(requests, fleet, target_factor, stages))
        best = min(best, most_done(windows, speed) / len(windows))
    return best


def _windows(
    requests: Iterable[Request], fleet: Fleet, target_factor: float, stages: frozenset[Stage]
) -> Iterable[Window]:
    for request in requests:
        shape = fleet.shapes[request.shape]
        target = target_factor * request.scale * shape.solo(request.steps)
        # Those of a request may encode once for all of them.
        for number in range(request.number):
            own = stages - {Stage.ENCODE} if number or request.key else stages
            work = request.scale * sum(shape.seconds(stage, request.steps) for stage in own)
            yield request.at, request.at + target, work


def most_done(windows: Sequence[Window], speed: float) -> float:
    """No more jobs than this, parts of jobs counted as parts, can be done each within its window.

    Of the limits that bind (within any span no more is done than speed times its length) those are taken whose spans
    are nested: halves of halves of the whole. There the least work first is best, as in every polymatroid, so the
    greedy sum is the exact optimum of what is left to bind, and what all limits allow is no more. The best of several
    ways to lay the halves is taken.
    """
    begin, end = min(window[0] for window in windows), max(window[1] for window in windows)
    whole = end - begin
    if whole <= 0:
        return float(len(windows))
    shortest = min(window[1] - window[0] for window in windows)
    levels = max(1, math.ceil(math.log2(whole / max(shortest, whole / 2**14))) + 1)
    ordered = sorted(windows, key=lambda window: window[2])
    return min(_greedy(ordered, speed, begin, end, shift / _SHIFTS, levels) for shift in range(_SHIFTS))


def _greedy(ordered: Sequence[Window], speed: float, begin: float, end: float, shift: float, levels: int) -> float:
    root = 2 * (end - begin)
    origin = begin - shift * (end - begin)
    left: dict[tuple[int, int], float] = {}
    done = 0.0
    for first, last, work in ordered:
        around = []
        for level in range(levels):
            width = root / 2**level
            cell = math.floor((first - origin) / width)
            if last > origin + (cell + 1) * width:
                break
            key = (level, cell)
            if key not in left:
                low, high = origin + cell * width, origin + (cell + 1) * width
                left[key] = speed * (min(high, end) - max(low, begin))
            around.append(key)
        given = max(0.0, min([work, *(left[key] for key in around)]))
        for key in around:
            left[key] -= given
        done += given / work if work > 0 else 1.0
    return done


def first_free(jobs: Iterable[tuple[float, float]], servers: int) -> list[float]:
    """Seconds of each job, (arrival, seconds alone), where the oldest goes to whichever server is free first."""
    free = [0.0] * servers
    taken = []
    for at, seconds in jobs:
        ended = max(at, heapq.heappop(free)) + seconds
        heapq.heappush(free, ended)
        taken.append(ended - at)
    return taken


def fewest_requests(jobs: Iterable[tuple[float, float]], servers: int) -> list[float]:
    """Likewise where each is given at its arrival to the server that has the fewest, as routers without a queue do."""
    queues: list[list[float]] = [[] for _ in range(servers)]
    taken = []
    for at, seconds in jobs:
        for queue in queues:
            while queue and queue[0] <= at:
                queue.pop(0)
        queue = min(queues, key=len)
        ended = max(at, queue[-1] if queue else at) + seconds
        queue.append(ended)
        taken.append(ended - at)
    return taken
