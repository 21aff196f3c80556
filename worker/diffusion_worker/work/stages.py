"""What the compute thread does for a task: input from its slot, the model's stage, output into a slot.

Split and colocated workers run this very code; the only difference is whose pool the input's slot is in.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from diffusion_worker import payload
from diffusion_worker.metrics import StageMetrics
from diffusion_worker.model.driving import Driver
from diffusion_worker.model.types import Media, ModelError, StageModel, StepCancelled
from diffusion_worker.transport import Descriptor, Pool, PoolFull, Slot, private_copy
from diffusion_worker.work.opening import Bounds, open_files
from diffusion_worker.work.tasks import Task, parameters
from diffusionpipeline.words import Stage


@dataclass(frozen=True, slots=True)
class Published:
    """An output that others may pull."""

    slot: Slot
    descriptor: Descriptor


@dataclass(frozen=True, slots=True)
class NoRoom:
    """An output for which the pool has no room just now."""

    plan: payload.Plan


@dataclass(frozen=True, slots=True)
class Files:
    """What decode made."""

    media: list[Media]


Result = Published | NoRoom | Files


def run_stage(
    task: Task, model: StageModel, pool: Pool, driver: Driver | None, metrics: StageMetrics, pixels: int
) -> Result:
    """Computes and publishes. Notes compute and publish times in the task's timings. `driver`: of a denoising.

    Raises what the model raises, StepCancelled, PayloadError and TransportError; a slot that it leased is given back.
    """
    begun = time.perf_counter()
    try:
        computed = _compute(task, model, driver, pixels)
    finally:
        seconds = time.perf_counter() - begun
        task.timings.compute_seconds = seconds
        metrics.stage_duration.observe(seconds)
    if task.stop is not None:
        raise StepCancelled
    if not isinstance(computed, dict):
        return Files(computed)
    begun = time.perf_counter()
    try:
        plan = payload.measure(computed)
    except payload.PayloadError as error:
        raise ModelError(f"the {task.stage} stage made what can't be carried: {error}") from error
    try:
        slot = pool.lease(plan.nbytes, task.id)
    except PoolFull:
        return NoRoom(plan)
    published = publish(plan, slot, pool)
    task.timings.publish_seconds = time.perf_counter() - begun
    return published


def publish(plan: payload.Plan, slot: Slot, pool: Pool) -> Published:
    """Writes an output into its slot. Gives the slot back if that fails."""
    try:
        digest = payload.write(plan, slot.payload)
        return Published(slot, pool.publish(slot, plan.nbytes, digest))
    except BaseException:
        pool.release(slot)
        raise


def _compute(task: Task, model: StageModel, driver: Driver | None, pixels: int) -> dict[str, object] | list[Media]:
    if task.stage is Stage.ENCODE:
        images = {name: open_files(name, files, Bounds(pixels=pixels)) for name, files in task.files.items()}
        return model.encode(parameters(task.execute.parameters, images))
    assert task.slot is not None, "an input was fetched before its stage was started"
    values = payload.read(private_copy(task.slot, task.execute.input.digest), keep=True)
    if driver is not None:
        names = dict.fromkeys(file.name for file in task.execute.parameters.inputs)
        return model.denoise(values, parameters(task.execute.parameters, names), driver)
    return model.decode(values)
