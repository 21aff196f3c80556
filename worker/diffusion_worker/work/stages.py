"""What the compute thread does for a task: input from its slot, the model's stage, output into a slot.

Split and colocated workers run this very code; the only difference is whose pool the input's slot is in.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from diffusion_worker import payload
from diffusion_worker.metrics import StageMetrics
from diffusion_worker.model.types import RESUME, Media, ModelError, StageModel, StepCancelled, Values
from diffusion_worker.transport import Descriptor, Pool, PoolFull, Slot, TooLarge, private_copy
from diffusion_worker.work.driver import TaskDriver
from diffusion_worker.work.opening import Bounds, open_files
from diffusion_worker.work.tasks import Task, parameters
from diffusionpipeline.words import Stage


@dataclass(frozen=True, slots=True)
class Published:
    """An output that others may pull."""

    slot: Slot
    descriptor: Descriptor
    parked: bool
    """It is a checkpoint."""


@dataclass(frozen=True, slots=True)
class NoRoom:
    """An output for which the pool has no room just now."""

    plan: payload.Plan
    checkpoint: Values | None
    """If it is one: what the denoising goes on from, should there be no room in time."""


@dataclass(frozen=True, slots=True)
class TooMuch:
    """A checkpoint that no slot of this pool can ever hold: the denoising goes on from it here."""

    checkpoint: Values
    why: str


@dataclass(frozen=True, slots=True)
class Files:
    """What decode made."""

    media: list[Media]


Result = Published | NoRoom | TooMuch | Files


def run_stage(
    task: Task, model: StageModel, pool: Pool, driver: TaskDriver | None, metrics: StageMetrics, pixels: int
) -> Result:
    """Computes and publishes. Notes compute and publish times in the task's timings. `driver`: of a denoising.

    Raises what the model raises, StepCancelled, PayloadError and TransportError; a slot that it leased is given back.
    """
    begun = time.perf_counter()
    try:
        computed = _compute(task, model, driver, metrics, pixels)
    finally:
        seconds = time.perf_counter() - begun
        task.timings.compute_seconds += seconds
        metrics.stage_duration.observe(seconds)
    if task.stop is not None:
        raise StepCancelled
    if not isinstance(computed, dict):
        return Files(computed)
    begun = time.perf_counter()
    checkpoint = computed if task.stage is Stage.DENOISE and RESUME in computed else None
    try:
        plan = payload.measure(computed)
        slot = pool.lease(plan.nbytes, task.id)
    except PoolFull:
        return NoRoom(plan, checkpoint)
    except (payload.PayloadError, TooLarge) as error:
        if checkpoint is not None:
            return TooMuch(checkpoint, str(error))
        if isinstance(error, TooLarge):
            raise
        raise ModelError(f"the {task.stage} stage made what can't be carried: {error}") from error
    published = publish(plan, slot, pool, parked=checkpoint is not None)
    task.timings.publish_seconds = time.perf_counter() - begun
    return published


def publish(plan: payload.Plan, slot: Slot, pool: Pool, *, parked: bool = False) -> Published:
    """Writes an output into its slot. Gives the slot back if that fails."""
    try:
        digest = payload.write(plan, slot.payload)
        return Published(slot, pool.publish(slot, plan.nbytes, digest), parked)
    except BaseException:
        pool.release(slot)
        raise


def _compute(
    task: Task, model: StageModel, driver: TaskDriver | None, metrics: StageMetrics, pixels: int
) -> Values | list[Media]:
    if task.stage is Stage.ENCODE:
        images = {name: open_files(name, files, Bounds(pixels=pixels)) for name, files in task.files.items()}
        return model.encode(parameters(task.execute.parameters, images))
    if driver is not None:
        return _denoise(task, model, driver, metrics)
    return model.decode(_input(task))


def _denoise(task: Task, model: StageModel, driver: TaskDriver, metrics: StageMetrics) -> Values:
    begun = time.perf_counter()
    values = task.checkpoint
    if values is None:
        values = _input(task)
        if RESUME in values:
            if not task.resumable:
                # It might begin from its first step, and nobody would see it.
                raise ModelError("the input is a checkpoint, and from one this model can't go on with such a request")
            metrics.resumed.inc()
    driver.values = values
    names = dict.fromkeys(file.name for file in task.execute.parameters.inputs)
    made = model.denoise(values, parameters(task.execute.parameters, names), driver)
    if RESUME in values and driver.asked_at is not None:
        task.timings.resume_seconds += driver.asked_at - begun
    return made


def _input(task: Task) -> Values:
    assert task.slot is not None, "an input was fetched before its stage was started"
    return payload.read(private_copy(task.slot, task.execute.input.digest), keep=True)
