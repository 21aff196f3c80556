"""What finished tasks left in the pools of peers, who may be reading it, and when its slot may be reused (I3).

A slot is released when nobody needs its bytes and nobody may be reading them. Three kinds of reader count: tasks that
the router sent; tasks of lost peers, until the grace is over; and, for what was made in an earlier life of the router,
tasks that it has not heard of yet.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import count
from typing import Final

from diffusion_router.core.events import Action, ReleaseSlot, StageResult
from diffusion_router.core.state import Job, Output, Peer, Task

# Stands for readers of an earlier life that have not registered yet.
_UNKNOWN: Final = "unknown"


class Outputs:
    def __init__(
        self, jobs: Mapping[str, Job], peers: Mapping[str, Peer], emit: Callable[[Action], None], known_at: float
    ) -> None:
        """known_at: when no task of an earlier life of the router, of which it has not heard, reads any more."""
        self._jobs = jobs
        self._peers = peers
        self._emit = emit
        self._known_at = known_at
        # Readers that go by themselves: when, order, what they read, who they are.
        self._passing: list[tuple[float, int, Output, str]] = []
        self._order = count()
        # Tasks of an earlier life, by job: any output of the stage before may be their input.
        self._adopted: dict[str, list[Task]] = defaultdict(list)

    def keep(self, peer: Peer, result: StageResult, job: Job | None) -> Output:
        output = Output(
            task_id=result.task_id,
            job_id=result.job_id,
            stage=result.stage,
            incarnation=peer.incarnation,
            generation=peer.generation,
            descriptor=result.output,
        )
        peer.outputs[output.task_id] = output
        if job is not None:
            job.outputs[output.task_id] = output
        return output

    def adopt(self, peer: Peer, result: StageResult, job: Job | None, now: float) -> Output:
        """As `keep`, for one that may be read by tasks that this router did not send."""
        output = self.keep(peer, result, job)
        if now < self._known_at:
            self._read_until(self._known_at, output, _UNKNOWN)
        for task in self._adopted.get(output.job_id, ()):
            if task.stage == output.stage + 1:
                self.read(task, output)
        return output

    def adopt_reader(self, task: Task) -> None:
        """A task of an earlier life: which output it reads is not known."""
        self._adopted[task.job_id].append(task)
        job = self._jobs.get(task.job_id)
        outputs = job.outputs if job is not None else self._of_unknown_job(task.job_id)
        for output in outputs.values():
            if task.stage == output.stage + 1:
                self.read(task, output)

    def _of_unknown_job(self, job_id: str) -> dict[str, Output]:
        kept = (output for peer in self._peers.values() for output in peer.outputs.values())
        return {output.task_id: output for output in kept if output.job_id == job_id}

    def read(self, task: Task, output: Output) -> None:
        output.readers.add(task.id)
        task.reads.append(output)

    def stop_reading(self, task: Task) -> None:
        self._forget_adopted(task)
        reads, task.reads = task.reads, []
        for output in reads:
            output.readers.discard(task.id)
            self._release_if_free(output)

    def stop_reading_at(self, task: Task, until: float) -> None:
        """Its peer is lost, but may be alive and read until then."""
        self._forget_adopted(task)
        reads, task.reads = task.reads, []
        for output in reads:
            self._read_until(until, output, task.id)

    def discard(self, output: Output) -> None:
        """Nobody needs it any more."""
        output.wanted = False
        self._release_if_free(output)

    def next_change(self) -> float | None:
        return self._passing[0][0] if self._passing else None

    def pass_time(self, now: float) -> None:
        while self._passing and self._passing[0][0] <= now:
            _, _, output, reader = heapq.heappop(self._passing)
            output.readers.discard(reader)
            self._release_if_free(output)

    def _read_until(self, until: float, output: Output, reader: str) -> None:
        output.readers.add(reader)
        heapq.heappush(self._passing, (until, next(self._order), output, reader))

    def _forget_adopted(self, task: Task) -> None:
        tasks = self._adopted.get(task.job_id)
        if tasks is not None and task in tasks:
            tasks.remove(task)
            if not tasks:
                del self._adopted[task.job_id]

    def _release_if_free(self, output: Output) -> None:
        if output.wanted or output.readers:
            return
        job = self._jobs.get(output.job_id)
        if job is not None:
            job.outputs.pop(output.task_id, None)
        peer = self._peers.get(output.incarnation)
        if peer is not None and peer.outputs.pop(output.task_id, None) is not None:
            self._emit(ReleaseSlot(peer.incarnation, output.task_id))
