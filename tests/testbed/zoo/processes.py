"""A real process that holds a role of one zoo model after another, and is called over a pipe.

Starting one costs some ten seconds of imports, so a test run starts each role once and serves all families with it.
What one role hands to the next is what a slot would hold: the payload codec's bytes.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Self

from testbed.zoo.adapters import adapter_files, put_on
from testbed.zoo.cache import ensure
from testbed.zoo.cases import Case, Stay, parameters_of
from testbed.zoo.catalogue import FAMILIES
from testbed.zoo.classic import classic, decoded_by, plain
from testbed.zoo.control_nets import control_net_files
from testbed.zoo.ip_adapters import ip_adapter_files
from testbed.zoo.schedulers import kinds_for, swap

ENCODER, DENOISER, DECODER = ("encode",), ("denoise",), ("decode",)
WHOLE = ENCODER + DENOISER + DECODER
_END_SECONDS = 10.0


class RoleError(Exception):
    """What a call raised in the process: the name of its exception, its message and the traceback."""

    def __init__(self, kind: str, message: str, trace: str) -> None:
        super().__init__(f"{kind}: {message}\n{trace}")
        self.kind = kind
        self.message = message


class RoleProcess:
    """The parent's end: `start` begins a call, `result` waits for it; `call` does both."""

    def __init__(self, stages: tuple[str, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, stages), daemon=True)
        self._process.start()
        child.close()

    def wait_until_ready(self, timeout: float) -> None:
        """Waits until the process has imported what it needs."""
        self.result(timeout)

    def start(self, method: str, *args: Any, **kwargs: Any) -> Self:
        """Begins a call of a method of `_Server`; one at a time."""
        self._connection.send((method, args, kwargs))
        return self

    def result(self, timeout: float = 240) -> Any:
        """What the call returned. Raises RoleError for what it raised, TimeoutError after `timeout` seconds."""
        if not self._connection.poll(timeout):
            # A late answer would be taken for the next call's.
            self.close()
            raise TimeoutError(f"no answer from process {self._process.pid} in {timeout} s")
        outcome, value = self._connection.recv()
        if outcome == "raised":
            raise RoleError(*value)
        return value

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of `_Server` and waits for it."""
        return self.start(method, *args, **kwargs).result()

    def close(self) -> None:
        """Ends the process, by itself if it does."""
        self._connection.close()
        self._process.join(_END_SECONDS)
        self._process.kill()
        self._process.join()


def _serve(connection: Connection, stages: tuple[str, ...]) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(1)
    server = _Server(stages)
    connection.send(("returned", None))
    while True:
        try:
            method, args, kwargs = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("returned", getattr(server, method)(*args, **kwargs)))
        except Exception as error:
            connection.send(("raised", (type(error).__name__, str(error), traceback.format_exc())))


class _Server:
    """The child's end. Everything it returns is plain data."""

    def __init__(self, stages: tuple[str, ...]) -> None:
        from diffusion_worker.model import media, modular, replay

        self._shell_makers = [(module, module.make_shell) for module in (modular, replay)]
        self._stages = stages
        self._models: dict[tuple[object, ...], Any] = {}
        self._made: list[Any] = []
        original = media.frames_of

        def recorded(made: Any) -> Any:
            self._made.append(made)
            return original(made)

        # The pixels as the pipeline made them, before any encoding to a file: H.264 forgives small differences.
        media.frames_of = recorded

    def describe(self, case: Case) -> dict[str, Any]:
        """The way that the model is cut, what it makes, what is loaded, and what has weights."""
        model = self._model(case)
        folder = model.folder
        return {
            "way": model.way,
            "output": model.output,
            "loaded": sorted(one for one in model.loaded if one in folder.components and folder.is_module(one)),
            "leading": sorted(model.loaded - folder.components.keys()),
            "weights": sorted(name for name in folder.components if folder.is_module(name)),
            "resumable": {workflow.resumable for workflow in model.workflows},
        }

    def gpu_working_memory(self) -> int:
        """Bytes on the GPU, beyond what is held now, that this process had at some moment since it was last asked."""
        import torch

        held = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return held

    def encode(self, case: Case) -> bytes:
        return _write(self._model(case).encode(parameters_of(case)))

    def denoise(
        self,
        case: Case,
        data: bytes,
        *,
        gathers: bool = False,
        park_at: int | None = None,
        fresh_generator: bool = False,
    ) -> tuple[bytes, list[tuple[int, int]]]:
        """The output, and the steps that were reported.

        gathers: guidance in one forward where the family has it so. park_at: the step at which to park.
        fresh_generator: how far the encoder drew is forgotten.
        """
        from diffusion_worker.model.driving import Direct

        values = _read(data)
        if fresh_generator:
            _forget_draws(values, int(FAMILIES[case.family].request["seed"]))
        steps: list[tuple[int, int]] = []
        driver = Direct(lambda step, total: steps.append((step, total)), gathers=gathers, park_at=park_at)
        made = self._model(case).denoise(values, parameters_of(case), driver)
        if not fresh_generator:
            assert _write(values) == data, "denoise changed its input"
        return _write(made), steps

    def denoise_together(self, stays: Sequence[Stay]) -> dict[str, Any]:
        """What requests that share forwards become (None: cancelled), their steps in the order they were made (each
        with the request's place), and how many forwards there were."""
        from testbed.zoo.sharing import denoise_together

        given = [(_read(stay.encoded), parameters_of(stay.case), stay) for stay in stays]
        made, steps, forwards = denoise_together(self._model(stays[0].case), given)
        return {"denoised": [one and _write(one) for one in made], "steps": steps, "forwards": forwards}

    def distance(self, one: bytes, other: bytes) -> float:
        """How far apart two outputs are, as a share of the largest value."""
        from testbed.zoo.sharing import distance

        return distance(_read(one), _read(other))

    def distance_to_classic(self, case: Case, *, gathers: bool = False) -> float:
        """The largest difference of what the VAE is given to decode to what diffusers' own pipeline gives it."""
        import torch

        pipeline, arguments = classic(case)
        if case.adapters is not None:
            put_on(pipeline, FAMILIES[case.family].checkpoint, case.adapters)
        if case.scheduler:
            swap(pipeline, FAMILIES[case.family].checkpoint, case.scheduler)
        with decoded_by(type(pipeline.vae)) as ours:
            self.whole(case, gathers=gathers)
        # What some draw from the one generator that all share.
        torch.manual_seed(arguments["generator"].initial_seed())
        with decoded_by(type(pipeline.vae)) as classics:
            pipeline(**arguments)
        return max(float((one - other).abs().max()) for one, other in zip(ours, classics, strict=True))

    def cancel(self, case: Case, data: bytes, at: int) -> int:
        """Cancels a denoising at a step; returns the last step that was reported."""
        from diffusion_worker.model import StepCancelled
        from diffusion_worker.model.driving import Direct

        seen = 0

        def on_step(step: int, _total: int) -> None:
            nonlocal seen
            seen = step
            if step == at:
                raise StepCancelled

        try:
            self._model(case).denoise(_read(data), parameters_of(case), Direct(on_step))
        except StepCancelled:
            return seen
        raise AssertionError(f"the denoising went on to its end after a cancel at step {at}")

    def decode(self, case: Case, data: bytes) -> dict[str, Any]:
        values = _read(data)
        self._made.clear()
        files = self._model(case).decode(values)
        assert _write(values) == data, "decode changed its input"
        return {"files": files, "pixels": [_fingerprint(made) for made in self._made]}

    def whole(self, case: Case, *, gathers: bool = False) -> dict[str, Any]:
        """All three stages here, with values handed over in memory."""
        from diffusion_worker.model.driving import Direct

        model = self._model(case)
        self._made.clear()
        denoised = model.denoise(model.encode(parameters_of(case)), parameters_of(case), Direct(gathers=gathers))
        return {
            "files": model.decode(denoised),
            "pixels": [_fingerprint(made) for made in self._made],
            "denoised": _write(denoised),
        }

    def distance_to_plain(self, case: Case, *, gathers: bool = False) -> float:
        """The largest difference of a pixel (0 to 1) to what diffusers' own pipeline makes, with nothing of ours."""
        import numpy as np

        self.whole(case, gathers=gathers)
        (made,) = self._made
        return float(np.abs(np.asarray(made) - np.asarray(plain(case))).max())

    def _model(self, case: Case) -> Any:
        from diffusion_worker.model import NO_ADAPTERS, load_model
        from diffusionpipeline.words import Stage

        checkpoint = FAMILIES[case.family].checkpoint
        beside = (case.adapters, case.controls, case.shown, case.scheduler)
        adapted, led, shown, swapped = has = tuple(one is not None for one in beside)
        key = (checkpoint.name, case.dtype, case.device, case.without_shells, case.tiled, has)
        if key not in self._models:
            try:
                for module, _ in self._shell_makers if case.without_shells else ():
                    module.make_shell = lambda *_args, **_kwargs: None
                self._models[key] = load_model(
                    path=ensure(checkpoint),
                    adapters=adapter_files(checkpoint) if adapted else NO_ADAPTERS,
                    control_nets=control_net_files(checkpoint) if led else (),
                    ip_adapters=ip_adapter_files(checkpoint) if shown else (),
                    schedulers=kinds_for(checkpoint) if swapped else (),
                    stages=frozenset(Stage(stage) for stage in self._stages),
                    dtype=case.dtype,
                    device=case.device,
                    vae_tiling=case.tiled,
                )
            finally:
                for module, maker in self._shell_makers:
                    module.make_shell = maker
        return self._models[key]


def _write(values: Any) -> bytes:
    from diffusion_worker import payload

    plan = payload.measure(values)
    buffer = bytearray(plan.nbytes)
    payload.write(plan, memoryview(buffer))
    return bytes(buffer)


def _read(data: bytes) -> Any:
    from diffusion_worker import payload

    return payload.read(memoryview(data))


def _fingerprint(made: Any) -> str:
    import hashlib

    import numpy as np

    pixels = np.stack([np.asarray(one) for one in made])
    return f"{pixels.dtype}{pixels.shape}{hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()}"


def _forget_draws(values: Any, seed: int) -> None:
    """Puts the generator's first state wherever a stage's output keeps a later one."""
    import torch

    first = torch.Generator("cpu").manual_seed(seed)
    if "generator" in values:
        values["generator"] = first
    for record in values.get("records", ()):
        record["generator"] = first.get_state()
