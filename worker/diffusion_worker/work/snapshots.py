"""Checkpoints of denoisings that go on, for a peer to copy: should this worker die, little of its work is lost.

They are made at the end of a step, on the compute thread, and stand in nobody's way: where the pool has little room
left, or a checkpoint can't be carried, there is none, and the denoising goes on as if nobody had asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from diffusion_worker import payload
from diffusion_worker.metrics import Metrics
from diffusion_worker.model.types import RESUME, Values
from diffusion_worker.transport import Pool, PoolFull, to_wire
from diffusion_worker.work import reports
from diffusion_worker.work.compute import ComputeThread
from diffusion_worker.work.holdings import Holdings
from diffusion_worker.work.stages import Published, publish
from diffusion_worker.work.tasks import Asked, Task, classify
from diffusionpipeline.v1 import peer_pb2

TIMES: Final = 3
"""So many of its size must be free: for the checkpoint, what the task makes, and the next one's input."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What came of a checkpoint that was asked for."""

    id: str
    parked: peer_pb2.Parked
    seconds: float
    """That the denoising stood still for it."""
    made: Published | Exception


class Snapshots:
    """`send` queues a report for the router and must not block."""

    def __init__(
        self,
        compute: ComputeThread,
        pool: Pool,
        metrics: Metrics,
        holdings: Holdings,
        send: Callable[[peer_pb2.PeerReport], None],
        generation: str,
    ) -> None:
        self._compute = compute
        self._pool = pool
        self._metrics = metrics
        self._holdings = holdings
        self._send = send
        self._generation = generation

    def ask(self, task_id: str, checkpoint_id: str, *, within_seconds: float) -> None:
        """One of this denoising at the last step that ends within so many seconds, if it is one that can be resumed."""
        task = self._holdings.tasks.get(task_id)
        if task is not None and task.resumable:
            task.asked = Asked(checkpoint_id, time.monotonic() + within_seconds)

    def at_step(self, task: Task, values: Values, step: int, steps: int, checkpoint: Callable[[], object]) -> None:
        """After a step, on the compute thread. values: what the task computes from."""
        asked = task.asked
        if asked is None or step >= steps or time.monotonic() + task.step_seconds <= asked.by:
            return
        task.asked = None
        begun = time.perf_counter()
        made: Published | Exception
        try:
            made = self._publish({**values, RESUME: checkpoint()}, asked.id)
        except Exception as error:
            # It is made beside the denoising, which needs it for nothing.
            made = error
        told = _Snapshot(asked.id, peer_pb2.Parked(step=step, steps=steps), time.perf_counter() - begun, made)
        # What stood still was no step.
        task.step_at += told.seconds
        self._compute.post(self._tell, task, told)

    def _publish(self, values: Values, owner: str) -> Published:
        plan, pool = payload.measure(values), self._pool
        if TIMES * plan.nbytes > pool.size - pool.bytes_used or pool.slots - pool.slots_used < TIMES:
            raise PoolFull(
                f"{plan.nbytes} bytes for {owner} would leave too little of the pool, of which {pool.bytes_used} of "
                f"{pool.size} bytes and {pool.slots_used} of {pool.slots} slots are in use: raise "
                "spec.transport.poolSize"
            )
        return publish(plan, pool.lease(plan.nbytes, owner), pool, parked=True)

    def _tell(self, task: Task, told: _Snapshot) -> None:
        metrics = self._metrics.stages[task.stage]
        if isinstance(told.made, Published):
            metrics.checkpoint_duration.observe(told.seconds)
            metrics.checkpoint_bytes.inc(told.made.descriptor.length)
            report = reports.checkpoint(task, told.id, told.parked, told.seconds)
            report.output.CopyFrom(to_wire(told.made.descriptor, self._generation))
            self._holdings.keep_beside(task, report, told.made.slot)
        else:
            kind, text = classify(told.made)
            metrics.checkpoints_left_out.inc()
            log.warning("checkpoint_left_out", task_id=task.id, job_id=task.job_id, error=text)
            self._send(reports.failed(told.id, kind, text))
