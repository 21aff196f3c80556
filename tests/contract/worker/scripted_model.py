"""A model without weights, whose every step a test can hold back."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffusion_worker.model import InvalidRequest, IPAdapter, Media, Parameters, Values
from diffusion_worker.model.calls import Call
from diffusion_worker.model.driving import Driver
from diffusion_worker.model.types import RESUME, UnsupportedModel, Workflow
from diffusionpipeline.words import Stage

ALL = frozenset(Stage)
DEADLINE = 10.0


class AddOne(torch.nn.Module):
    """A network that may be held back, and remembers how many samples it was given at once."""

    def __init__(self, wait: Callable[[], None]) -> None:
        super().__init__()
        self._wait = wait
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._wait()
        self.batches.append(len(x))
        return x + 1


class ScriptedModel:
    """Passes an array on, adding one at each step, and can be parked after any. `hold` makes each step wait for a
    `let_go`; with `asks` a step is a call of `network`, and the forward waits instead."""

    output = "image"
    schedulers_offered = ()

    def adapters_offered(self) -> None:
        return None

    way = "scripted"

    def __init__(self, stages: frozenset[Stage] = ALL, *, resumable: bool = True) -> None:
        self.stages = stages
        self.workflows = (Workflow(images=frozenset(), encoding_reads=None, resumable=resumable),)
        self.nbytes = 1024
        self.nbytes_of: dict[str, int] = {}
        self.checkpoint_bytes = 0
        """That it takes beyond what encoding made."""
        self.checkpoints_fail = False
        self.media_bytes = 0
        self.hold = False
        self.asks = False
        self.network = AddOne(self.wait)
        self.step_seconds = 0.0
        self.before_stage: Callable[[Stage], None] = lambda stage: None
        self.calls: list[tuple[Stage, str]] = []
        self.images: dict[str, Image.Image] = {}
        self.ip_adapters: Sequence[IPAdapter] = ()
        self.held = False
        """Whether a step waits just now."""
        self._permits = threading.Semaphore(0)

    def let_go(self, steps: int = 1) -> None:
        self._permits.release(steps)

    def encode(self, parameters: Parameters) -> Values:
        self._begin(Stage.ENCODE, parameters.prompt)
        if parameters.width == 13:
            raise InvalidRequest("width: 13 is not a multiple of 8")
        self.images, self.ip_adapters = dict(parameters.images), parameters.ip_adapters
        nbytes = self.nbytes_of.get(parameters.prompt, self.nbytes)
        noise = np.full(nbytes, parameters.seed % 256, np.uint8)
        return {"prompt": parameters.prompt, "noise": noise, "steps": parameters.num_inference_steps or 1}

    def denoise(self, values: Values, parameters: Parameters, driver: Driver) -> Values:
        self._begin(Stage.DENOISE, str(values["prompt"]))
        resume: Any = values.get(RESUME, {"step": 0, "latents": values["noise"]})
        latents, steps = np.asarray(resume["latents"]).copy(), int(str(values["steps"]))
        for step in range(resume["step"] + 1, steps + 1):
            if self.asks:
                (made,) = driver.ask([Call(self.network, {"x": torch.from_numpy(latents)[None]}, "x")])
                latents = made[0].numpy()
            else:
                self.wait()
                latents += 1
            checkpoint = partial(self._checkpoint, step, latents)
            if driver.step(step, steps, checkpoint) and step < steps:
                return {**values, RESUME: checkpoint()}
        return {"prompt": values["prompt"], "latents": latents}

    def decode(self, values: Values) -> list[Media]:
        self._begin(Stage.DECODE, str(values["prompt"]))
        if self.media_bytes:
            return [Media(bytes(self.media_bytes), "video/mp4", 8, 8, 9)]
        latents = np.asarray(values["latents"])
        file = io.BytesIO()
        Image.fromarray(latents[:64].reshape(8, 8)).save(file, "PNG")
        return [Media(file.getvalue(), "image/png", 8, 8, 1)]

    def _checkpoint(self, step: int, latents: np.ndarray[Any, Any]) -> dict[str, object]:
        if self.checkpoints_fail:
            raise UnsupportedModel("can't be carried")
        return {"step": step, "latents": latents, "more": np.zeros(self.checkpoint_bytes, np.uint8)}

    def wait(self) -> None:
        """For as long as a step takes."""
        if self.hold:
            self.held = True
            assert self._permits.acquire(timeout=DEADLINE), "the test never let the model go on"
            self.held = False
        time.sleep(self.step_seconds)

    def _begin(self, stage: Stage, prompt: str) -> None:
        self.calls.append((stage, prompt))
        self.before_stage(stage)


def busy(until: Callable[[], bool]) -> None:
    """Computes like a model until something is so: without ever giving the event loop's thread anything to wait for."""
    end = time.monotonic() + DEADLINE
    while not until():
        assert time.monotonic() < end, "what the test computes for never came"
        sum(range(1000))
