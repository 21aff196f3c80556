"""What an event costs the router's core, by the size of the fleet and the length of the queue.

The core's own code on virtual time, and nothing else: no network, no store, no clock. Peers of three roles take what
they are sent, say what real workers say (input received, four steps, done, a heartbeat every third of the lease), and
for each job that ends another is submitted, so that the queue keeps its length. Only the CPU time within the core is
counted: `handle`, and `wakeup`, which the router asks after every event.

    python benchmarks/core.py [--rounds N] [--events N]

Each figure is a process of its own, so that none pays for another's memory; rounds alternate over all rows.
"""

from __future__ import annotations

import argparse
import heapq
import multiprocessing
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Final

from rich.console import Console
from rich.table import Table

from diffusion_router.core import (
    CancelTask,
    Core,
    Deadline,
    Event,
    Execute,
    FailureKind,
    Fifo,
    InputReceived,
    JobEnded,
    JobRecorded,
    JobSubmitted,
    Parked,
    ParkTask,
    PeerHeartbeat,
    PeerRegistered,
    Policy,
    Progressed,
    Stage,
    StageDone,
    StageFailed,
    StageResult,
)

SECONDS: Final = {Stage.ENCODE: 0.2, Stage.DENOISE: 4.0, Stage.DECODE: 0.3}
# Of a stage's time, so that peers do not march in step.
SPREAD: Final = (0.7, 1.3)
# So few that encoders' pools are soon full wherever jobs wait: their outputs stay until they are denoised.
SLOTS: Final = 32
STEPS: Final = 4
TIMEOUT: Final = 3600.0


@dataclass(frozen=True)
class Row:
    """`colocated`: every denoiser has all three roles. `broken`: how many of them fail whatever they begin. `tenants`:
    whose jobs they are; of each tenth job the denoising takes ten times as long, and all can be parked."""

    denoisers: int
    queue: int
    colocated: bool = False
    broken: int = 0
    tenants: int = 0

    @property
    def name(self) -> str:
        roles = "colocated" if self.colocated else "split"
        by = f", by deadline, {self.tenants} tenants" if self.tenants else ""
        return roles + by + (f", {self.broken} of them broken" if self.broken else "")


ROWS: Final = [
    *(Row(denoisers, queue) for denoisers in (10, 100, 1_000) for queue in (0, 1_000, 10_000)),
    *(Row(1_000, queue, colocated=True) for queue in (0, 10_000)),
    Row(1_000, 10_000, broken=2),
    *(Row(1_000, 10_000, tenants=tenants) for tenants in (1, 100)),
    Row(1_000, 0, tenants=1),
]


class World:
    """Peers that compute on virtual time, one task after the other."""

    def __init__(self, row: Row) -> None:
        self.policy = Policy(scheduling=Deadline() if row.tenants else Fifo())
        self.core = Core(self.policy, epoch="e", now=0.0)
        self.now = 0.0
        self.events = 0
        self.seconds = 0.0
        self.parks = 0
        self._row = row
        self._parking: set[str] = set()
        self._order = count()
        self._random = random.Random(row.denoisers)
        self._agenda: list[tuple[float, int, Event]] = []
        # What each peer was sent and has not begun; its task that runs.
        self._waiting: dict[str, dict[str, Execute]] = {}
        self._running: dict[str, Execute] = {}
        self._broken = {f"denoiser-{number}" for number in range(row.broken)}
        for name, stages in self._fleet(row):
            self._waiting[name] = {}
            self.tell(PeerRegistered(name, stages, pod_name=name, slots=SLOTS))
            self._later(self.policy.lease / 3 * (len(self._waiting) % 97) / 97, PeerHeartbeat(name))
        for _ in range(2 * row.denoisers + row.queue):
            self._submit()

    def _fleet(self, row: Row) -> list[tuple[str, frozenset[Stage]]]:
        if row.colocated:
            return [(f"denoiser-{number}", frozenset(Stage)) for number in range(row.denoisers)]
        helpers = max(1, row.denoisers // 10)
        fleet = {"encoder": (Stage.ENCODE, helpers), "denoiser": (Stage.DENOISE, row.denoisers)}
        fleet["decoder"] = (Stage.DECODE, helpers)
        return [
            (f"{role}-{number}", frozenset({stage}))
            for role, (stage, peers) in fleet.items()
            for number in range(peers)
        ]

    def _submit(self) -> None:
        number = next(self._order)
        long = "long" if self._row.tenants and number % 10 == 0 else ""
        tenant = f"tenant {number % self._row.tenants}" if self._row.tenants else ""
        shape = f"{number % 5}{long}"
        self.tell(JobSubmitted(f"job-{number}", self.now + TIMEOUT, shape, tenant=tenant, batch=shape))

    def run(self, events: int) -> None:
        end = self.events + events
        while self.events < end:
            self.now, _, event = heapq.heappop(self._agenda)
            if not self._is_over(event):
                self._happens(event)

    def _is_over(self, event: Event) -> bool:
        """Said of a task that was parked before."""
        of = (
            event.task_id
            if isinstance(event, Progressed)
            else event.result.task_id
            if isinstance(event, StageDone)
            else ""
        )
        running = self._running.get(event.incarnation) if of else None
        return bool(of) and (running is None or running.task_id != of)

    def _happens(self, event: Event) -> None:
        match event:
            case PeerHeartbeat():
                self._later(self.policy.lease / 3, event)
            case StageDone() | StageFailed(kind=FailureKind.UNSPECIFIED):
                del self._running[event.incarnation]
        self.tell(event)
        if isinstance(event, StageDone | StageFailed):
            self._begin(event.incarnation)
        elif isinstance(event, Progressed) and event.step and event.task_id in self._parking:
            self._parking.discard(event.task_id)
            task = self._running.pop(event.incarnation)
            self.parks += 1
            parked = Parked(event.step, event.steps)
            result = StageResult(task.task_id, task.job_id, task.stage, parked, parked=parked)
            self.tell(StageDone(event.incarnation, result))
            self._begin(event.incarnation)

    def tell(self, event: Event) -> None:
        self.events += 1
        start = time.process_time_ns()
        actions = self.core.handle(event, self.now)
        self.core.wakeup()
        self.seconds += (time.process_time_ns() - start) / 1e9
        for action in actions:
            match action:
                case Execute():
                    self._waiting[action.incarnation][action.task_id] = action
                    if action.input is not None:
                        self._later(0.0, InputReceived(action.incarnation, action.task_id))
                    self._begin(action.incarnation)
                case CancelTask() if self._waiting[action.incarnation].pop(action.task_id, None):
                    self._later(0.0, StageFailed(action.incarnation, action.task_id, FailureKind.HANDED_BACK))
                case ParkTask():
                    self._parking.add(action.task_id)
                case JobEnded():
                    self.tell(JobRecorded(action.job_id))
                    self._submit()

    def _begin(self, name: str) -> None:
        if name in self._running or not self._waiting[name]:
            return
        task = min(self._waiting[name].values(), key=lambda waiting: waiting.order)
        del self._waiting[name][task.task_id]
        self._running[name] = task
        self._later(0.0, Progressed(name, task.task_id, 0, STEPS, resumable=task.stage is Stage.DENOISE))
        if name in self._broken:
            self._later(0.1, StageFailed(name, task.task_id, FailureKind.UNSPECIFIED))
            return
        seconds = SECONDS[task.stage] * self._random.uniform(*SPREAD)
        if task.stage is Stage.DENOISE:
            seconds *= 10 if self.core.jobs[task.job_id].shape.endswith("long") else 1
            done = task.input.step if isinstance(task.input, Parked) else 0
            for step in range(done + 1, STEPS):
                self._later(
                    seconds * (step - done) / STEPS, Progressed(name, task.task_id, step, STEPS, resumable=True)
                )
            seconds *= (STEPS - done) / STEPS
        result = StageResult(task.task_id, task.job_id, task.stage, "report", compute_seconds=seconds)
        self._later(seconds, StageDone(name, result))

    def _later(self, seconds: float, event: Event) -> None:
        heapq.heappush(self._agenda, (self.now + seconds, next(self._order), event))


def measure(row: Row, events: int) -> float:
    """Events a second, after as many events and jobs as it takes until all peers work."""
    world = World(row)
    world.run(100 * row.denoisers + events // 2)
    before = world.seconds
    world.run(events)
    return events / (world.seconds - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=40_000)
    options = parser.parse_args()
    figures: dict[Row, list[float]] = {row: [] for row in ROWS}
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=fresh, max_tasks_per_child=1) as process:
        for _ in range(options.rounds):
            for row in ROWS:
                figures[row].append(process.submit(measure, row, options.events).result())
    medians = {row: statistics.median(found) for row, found in figures.items()}
    best = max(medians.values())
    table = Table(title=f"events/s of the router's core, {options.rounds} rounds of {options.events} events")
    for column in ("roles", "denoisers", "jobs waiting", "events/s", "lowest to highest", "of the best"):
        table.add_column(column, justify="left" if column == "roles" else "right")
    for row, median in medians.items():
        extent = f"{min(figures[row]):,.0f} to {max(figures[row]):,.0f}"
        table.add_row(
            row.name, f"{row.denoisers:,}", f"{row.queue:,}", f"{median:,.0f}", extent, f"{median / best:.2f}"
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
