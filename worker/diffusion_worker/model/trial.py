"""The heavy half of the self-test: runs a model whole and role by role, each in a process of its own.

`check.py` starts it; it is of no use by hand. Libraries are imported once and each run is a fork, so that a check
costs one start of torch and not four. Runs meet in a folder alone: `request.json`, which the check wrote; `cases.json`,
which the whole model makes of it; and for each case the payload of every stage.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import xxhash

from diffusion_worker import payload
from diffusion_worker.model import (
    InvalidRequest,
    Media,
    ModelError,
    Parameters,
    RoleModel,
    UnsupportedModel,
    Values,
    load_model,
)
from diffusion_worker.model.cases import cases_of, pictures
from diffusion_worker.model.cut import find_cut
from diffusion_worker.model.driving import Direct
from diffusion_worker.model.failures import told
from diffusion_worker.model.folder import ModelFolder, open_folder, quieten, torch_dtype
from diffusion_worker.model.shrink import shrink
from diffusionpipeline.words import STAGES, Stage

FORMAT: Final = {"image": "png", "video": "mp4"}
MAX_REFUSALS: Final = 8
"""Fields that a case may lose because the model does not take them."""


@dataclass(frozen=True)
class StageResult:
    """What one stage of one case made."""

    stage: str
    digest: str
    """xxh3-128 of the payload, or of the files that decode wrote."""
    nbytes: int
    seconds: float
    ships: list[dict[str, Any]]
    """Tensors in the payload: name, dtype, shape, bytes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all trials, prints one JSON object; returns 0, or 2 if the model can't be loaded."""
    parser = argparse.ArgumentParser(prog="python -m diffusion_worker.model.trial")
    parser.add_argument("path", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variant", default="")
    parser.add_argument("--allow-pickle", action="store_true")
    parser.add_argument("--vae-tiling", action="store_true")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(argv)
    try:
        _print(run(options))
    except ModelError as error:
        _print({"error": str(error), "unsupported": isinstance(error, UnsupportedModel)})
        return 2
    return 0


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The reports of the whole model and of each role, by name. Raises ModelError if one of them can't be loaded."""
    folder = open_folder(options.path, variant=options.variant, allow_pickle=options.allow_pickle)
    _import_all(folder)
    if options.small:
        _forked(_shrink, options, "small copy")
        options.path = options.work / "model"
    trials = {"whole": _forked(_trial, options, "whole", *STAGES)}
    return trials | {stage.value: _forked(_trial, options, stage.value, stage) for stage in STAGES}


def _import_all(folder: ModelFolder) -> None:
    """Imports what every run needs, before the first fork. Touches no device and starts no threads."""
    quieten()
    for name in folder.components:
        folder.component_class(name)
    if find_cut(folder) is not None:
        import_module("diffusion_worker.model.modular")
    else:
        import_module("diffusion_worker.model.replay")


def _forked(target: Callable[..., dict[str, Any]], options: argparse.Namespace, name: str, *stages: Stage) -> Any:
    """What `target` returns, run in a fork of this process. Raises the ModelError that it raised."""
    report = options.work / f"{name}.json"

    def body() -> None:
        torch.set_num_threads(options.threads)
        # Of its own: a fork has its parent's random state, and what depends on it must not look the same by that.
        own = secrets.randbits(32)
        torch.manual_seed(own)
        np.random.seed(own)
        random.seed(own)
        try:
            made = target(options, *stages)
        except ModelError as error:
            made = {"error": str(error), "unsupported": isinstance(error, UnsupportedModel)}
        report.write_text(json.dumps(made))

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise ModelError(f"the process of the {name} model ended with code {process.exitcode}")
    made = json.loads(report.read_text())
    if "error" in made:
        raise (UnsupportedModel if made["unsupported"] else ModelError)(made["error"])
    return made


def _shrink(options: argparse.Namespace) -> dict[str, Any]:
    shrink(options.path, options.work / "model", dtype=torch_dtype(options.dtype))
    return {}


def _trial(options: argparse.Namespace, *stages: Stage) -> dict[str, Any]:
    """Loads the model for `stages` and runs these stages of every case."""
    started = time.monotonic()
    model = load_model(
        path=options.path,
        variant=options.variant,
        stages=frozenset(stages),
        dtype=options.dtype,
        device=options.device,
        allow_pickle=options.allow_pickle,
        vae_tiling=options.vae_tiling,
    )
    load_seconds = time.monotonic() - started
    cases_file = options.work / "cases.json"
    if len(stages) > 1:
        asked = json.loads((options.work / "request.json").read_text())
        cases_file.write_text(json.dumps(cases_of(model, asked["request"], asked["side"])))
    cases = json.loads(cases_file.read_text())
    results = {name: _run_case(model, stages, options.work, name, case) for name, case in cases.items()}
    folder = open_folder(options.path, variant=options.variant, allow_pickle=options.allow_pickle)
    return {
        "way": model.way,
        "output": model.output,
        "pipeline": folder.pipeline_class,
        "components": [{"name": name, "class": folder.components[name][1]} for name in sorted(model.loaded)],
        "load_seconds": load_seconds,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "cases": results,
    }


def _run_case(model: RoleModel, stages: Sequence[Stage], work: Path, name: str, case: dict[str, Any]) -> dict[str, Any]:
    """The case's results by stage; or why it is refused; or how it failed, which ends no other case."""
    try:
        return _results(model, stages, work, name, case)
    except InvalidRequest as error:
        return {"refused": str(error)}
    except ModelError as error:
        return {"failed": str(error)}
    except Exception as error:
        return {"failed": told(error)}


def _results(model: RoleModel, stages: Sequence[Stage], work: Path, name: str, case: dict[str, Any]) -> dict[str, Any]:
    results: list[StageResult] = []
    parking: dict[str, Any] | None = None
    request = case
    asked = work / f"{name}.request"
    if stages[0] is not Stage.ENCODE and not (work / f"{name}.{_before(stages[0])}").exists():
        return {"refused": "nothing came from the stage before"}
    for stage in stages:
        started = time.monotonic()
        made: Values | list[Media]
        if stage is Stage.ENCODE:
            made, request = _encode(model, case)
            asked.write_text(json.dumps(request))
        else:
            values = payload.read(memoryview((work / f"{name}.{_before(stage)}").read_bytes()))
            if stage is Stage.DENOISE:
                request = json.loads(asked.read_text())
                counted = Counted()
                made = model.denoise(values, _parameters(request), counted)
                # The whole model shows what is right; that it can be parked is for the role to show.
                if len(stages) == 1:
                    parking = _park(model, values, _parameters(request), counted.steps, _digest(made))
            else:
                made = model.decode(values)
        seconds = time.monotonic() - started - (parking or {}).get("seconds", 0.0)
        if isinstance(made, list):
            data = b"".join(one.data for one in made)
            (work / f"{name}.{stage}").write_bytes(data)
            results.append(StageResult(stage, xxhash.xxh3_128_hexdigest(data), len(data), seconds, []))
        else:
            buffer = _bytes(made)
            (work / f"{name}.{stage}").write_bytes(buffer)
            digest = xxhash.xxh3_128_hexdigest(buffer)
            results.append(StageResult(stage, digest, len(buffer), seconds, list(_tensors("", made))))
    return {"request": request, "stages": [asdict(result) for result in results], "parking": parking}


@dataclass
class Counted(Direct):
    """Remembers how many steps there were."""

    steps: int = 0

    def step(self, step: int, steps: int, checkpoint: Callable[[], object]) -> bool:
        self.steps = steps
        return super().step(step, steps, checkpoint)


def _park(model: RoleModel, values: Values, request: Parameters, steps: int, wanted: str) -> dict[str, Any]:
    """Parks after each step and goes on from what a slot would hold. What the largest checkpoint adds to the input."""
    began = time.monotonic()
    differs, nbytes, why = [], 0, ""
    plain = payload.measure(values).nbytes
    for step in range(1, steps):
        try:
            parked = _through_a_slot(model.denoise(values, request, Direct(park_at=step)))
            made = model.denoise(parked, request, Direct())
        except ModelError as error:
            why = str(error)
            break
        nbytes = max(nbytes, payload.measure(parked).nbytes - plain)
        if _digest(made) != wanted:
            differs.append(step)
    return {
        "resumable": not (differs or why),
        "differs": differs,
        "why": why,
        "nbytes": nbytes,
        "seconds": time.monotonic() - began,
    }


def _digest(values: Values) -> str:
    return xxhash.xxh3_128_hexdigest(_bytes(values))


def _bytes(values: Values) -> bytearray:
    plan = payload.measure(values)
    buffer = bytearray(plan.nbytes)
    payload.write(plan, memoryview(buffer))
    return buffer


def _through_a_slot(values: Values) -> Values:
    return payload.read(memoryview(_bytes(values)))


def _encode(model: RoleModel, case: dict[str, Any]) -> tuple[Values, dict[str, Any]]:
    """Encodes the case without the fields that this family does not take, and the case as it then was.

    Raises InvalidRequest if it is refused for another reason: an input image is wanted, or not taken.
    """
    request = {**case, "output_format": FORMAT[model.output]}
    for _ in range(MAX_REFUSALS):
        try:
            return model.encode(_parameters(request)), request
        except InvalidRequest as error:
            field = str(error).split(":")[0]
            if field == "prompt" and request["prompt"]:
                # Of a model that takes no text, none may say anything.
                request["prompt"] = ""
                continue
            if field in ("prompt", "seed", "output_format", "images") or field not in request:
                raise
            del request[field]
    raise InvalidRequest("the model refuses more fields than a check gives")


def _parameters(request: dict[str, Any]) -> Parameters:
    given = {name: value for name, value in request.items() if name != "images"}
    return Parameters(**given, images=pictures(request.get("images", {})))


def _tensors(path: str, value: object) -> Any:
    if isinstance(value, torch.Tensor):
        yield {
            "name": path,
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "bytes": value.numel() * value.element_size(),
        }
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield from _tensors(f"{path}.{name}".lstrip("."), entry)
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _tensors(f"{path}.{index}".lstrip("."), entry)


def _before(stage: Stage) -> Stage:
    return STAGES[STAGES.index(stage) - 1]


def _print(report: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    sys.exit(main())
