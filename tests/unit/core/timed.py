"""A pipeline in virtual time: peers take as long as they take, and what was predicted is held against what came."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count

from diffusion_router.core import (
    Core,
    Event,
    Execute,
    JobEnded,
    JobRecorded,
    JobStatus,
    JobSubmitted,
    PeerRegistered,
    Policy,
    Prediction,
    Progressed,
    Refused,
    Stage,
    StageDone,
    StageFailed,
    StageResult,
    Tick,
    admit,
)
from diffusion_router.core.actions import CancelTask
from diffusion_router.core.events import FailureKind

Seconds = Callable[[Stage, str], float]
STEPS = 10
# Peers send no heartbeats.
POLICY = Policy(lease=1e9)


@dataclass
class Admitted:
    shape: str
    at: float
    deadline: float
    predicted: Prediction
    adapters: frozenset[str] = frozenset()
    begun: float | None = None
    ended: float | None = None
    status: JobStatus | None = None


class Pipeline:
    """`fleet`: how many peers of which stages. `seconds`: how long a stage of a shape takes, drawn anew each time."""

    def __init__(
        self,
        fleet: Mapping[frozenset[Stage], int],
        seconds: Seconds,
        *,
        max_queued: int = 256,
        seed: int = 0,
        policy: Policy = POLICY,
    ) -> None:
        self.now = 0.0
        self.core = Core(policy, epoch="e", now=0.0)
        self.random = random.Random(seed)
        self.admitted: dict[str, Admitted] = {}
        self.refused: list[Refused] = []
        self.most_waiting = 0
        self._seconds = seconds
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._queues: dict[str, deque[Execute]] = defaultdict(deque)
        self._runs: dict[str, Execute] = {}
        self._max_queued = max_queued
        for stages, number in fleet.items():
            for index in range(number):
                name = "".join(stage.name[:3] for stage in sorted(stages)) + str(index)
                self.tell(PeerRegistered(name, stages, pod_name=name))

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._order), do))

    def submit(
        self, shape: str, timeout: float, *, accept_late: bool = False, adapters: frozenset[str] = frozenset()
    ) -> None:
        try:
            admit(
                self.core,
                [shape],
                entering=0,
                timeout=timeout,
                accept_late=accept_late,
                max_queued=self._max_queued,
                now=self.now,
            )
        except Refused as refused:
            self.refused.append(refused)
            return
        job_id = f"j{len(self.admitted)}"
        predicted = self.core.predict(self.now, shape)
        self.admitted[job_id] = Admitted(shape, self.now, self.now + timeout, predicted, adapters)
        self.tell(JobSubmitted(job_id, self.now + timeout, shape, adapters=adapters))
        self.most_waiting = max(self.most_waiting, self.core.waiting())

    def run(self, until: float = 1e12) -> None:
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, do = heapq.heappop(self._agenda)
            do()
        self.now = max(self.now, until if until < 1e12 else 0.0)

    def tell(self, event: Event) -> None:
        for action in self.core.handle(event, self.now):
            match action:
                case Execute():
                    self._queues[action.incarnation].append(action)
                    self._begin(action.incarnation)
                case CancelTask():
                    self._cancel(action)
                case JobEnded():
                    job = self.admitted[action.job_id]
                    job.ended, job.status = self.now, action.status
                    self.at(self.now, lambda job_id=action.job_id: self.tell(JobRecorded(job_id)))
        due = self.core.wakeup()
        if due is not None:
            self.at(max(due, self.now), lambda: self.tell(Tick()) if self.core.wakeup() == due else None)

    def takes(self, task: Execute, job: Admitted) -> float:
        """Seconds from the begin of a task to its end."""
        return self._seconds(task.stage, job.shape)

    def _begin(self, peer: str) -> None:
        if peer in self._runs or not self._queues[peer]:
            return
        task = self._runs[peer] = self._queues[peer].popleft()
        job = self.admitted[task.job_id]
        seconds = self.takes(task, job)
        if task.stage is Stage.ENCODE and job.begun is None:
            job.begun = self.now
        self.at(self.now, lambda: self._say(task, Progressed(peer, task.task_id, 0, STEPS)))
        if task.stage is Stage.DENOISE:
            for step in range(1, STEPS):
                report = Progressed(peer, task.task_id, step, STEPS)
                self.at(self.now + seconds * step / STEPS, lambda report=report: self._say(task, report))
        done = StageDone(peer, StageResult(task.task_id, task.job_id, task.stage, "r", seconds))
        self.at(self.now + seconds, lambda: self._end(task, done))

    def _say(self, task: Execute, report: Event) -> None:
        if self._runs.get(task.incarnation) is task:
            self.tell(report)

    def _end(self, task: Execute, report: Event) -> None:
        if self._runs.get(task.incarnation) is task:
            del self._runs[task.incarnation]
            self.tell(report)
            self._begin(task.incarnation)

    def _cancel(self, action: CancelTask) -> None:
        peer = action.incarnation
        task = next((task for task in self._queues[peer] if task.task_id == action.task_id), None)
        if task is not None:
            self._queues[peer].remove(task)
        elif action.only_if_waiting or (running := self._runs.get(peer)) is None or running.task_id != action.task_id:
            return
        else:
            del self._runs[peer]
        kind = FailureKind.HANDED_BACK if action.only_if_waiting else FailureKind.CANCELLED
        self.at(self.now, lambda: self.tell(StageFailed(peer, action.task_id, kind)))
        self.at(self.now, lambda: self._begin(peer))


def in_time(jobs: list[Admitted]) -> float:
    """The share of them that completed before their deadline."""
    return sum(job.status is JobStatus.COMPLETED for job in jobs) / len(jobs)
