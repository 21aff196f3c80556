"""Steps on their way from the compute thread to the router: at most twenty a second and task, but always the last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from diffusion_worker.metrics import Metrics
from diffusion_worker.model.types import StepCancelled
from diffusion_worker.work import reports
from diffusion_worker.work.compute import ComputeThread
from diffusion_worker.work.tasks import Task
from diffusionpipeline.v1 import peer_pb2

INTERVAL_SECONDS: Final = 0.05


class StepReports:
    def __init__(self, compute: ComputeThread, metrics: Metrics, send: Callable[[peer_pb2.PeerReport], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._compute = compute
        self._metrics = metrics
        self._send = send

    def on_step(self, task: Task, step: int, steps: int) -> None:
        """After a step, on the compute thread. Raises StepCancelled if the task is to end."""
        self._compute.underway.step()
        now = time.monotonic()
        stage = self._metrics.stages[task.stage]
        stage.steps.inc()
        task.step_seconds = now - task.step_at
        stage.step_duration.observe(task.step_seconds)
        task.step_at = now
        task.step, task.steps = step, steps
        task.timings.steps += 1
        if task.stop is not None:
            raise StepCancelled
        if not task.progress_due:
            task.progress_due = True
            self._compute.post(self._schedule, task)

    def flush(self, task: Task) -> None:
        """Send what is due now: the task is about to end."""
        if task.progress_due:
            task.progress_due = False
            task.progress_at = self._loop.time()
            self._send(reports.progress(task))

    def _schedule(self, task: Task) -> None:
        delay = task.progress_at + INTERVAL_SECONDS - self._loop.time()
        if delay > 0:
            self._loop.call_later(delay, self._send_if_running, task)
        else:
            self._send_if_running(task)

    def _send_if_running(self, task: Task) -> None:
        if task.started:
            self.flush(task)
