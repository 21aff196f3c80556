"""Makes a folder of one pipeline class and tries it: by diffusers alone, and whole and cut by this project.

One process imports the libraries; each try is a few forks of it, so that the next costs no start of torch and nothing
that one leaves behind reaches another.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed.zoo.classes.kind import Tried

SECONDS = 240
"""That one try may take."""


def preload() -> None:
    """Imports what all tries need, and no more threads are started than this one."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(1)
    import diffusers
    from diffusion_worker.model import modular, replay  # noqa: F401
    from diffusion_worker.model.folder import quieten

    quieten()
    for name in dir(diffusers):
        # Looking for a model's blocks diffusers imports every pipeline that it has.
        if name.endswith("Pipeline"):
            getattr(diffusers, name)


def attempt(tried: Tried) -> dict[str, Any]:
    """The report of `diffusion_worker.model.check` on a folder of this class, or its `error`; and under `classic` what
    diffusers' own pipeline makes of that folder, with nothing of ours: or its `error`, and then the folder is no good.
    """
    with tempfile.TemporaryDirectory(prefix="class-") as directory:
        work = Path(directory)
        classic = forked(_classic, tried, work)
        if "error" in classic:
            return {"classic": classic}
        return forked(_checked, tried, work) | {"classic": classic}


def forked(target: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What `target` returns in a fork of this process; an `error` for what it raises."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def body() -> None:
        import torch

        torch.set_num_threads(1)
        try:
            sender.send(target(*arguments))
        except Exception as error:
            sender.send({"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()})

    process = multiprocessing.get_context("fork").Process(target=body)
    process.start()
    sender.close()
    try:
        if not receiver.poll(SECONDS):
            return {"error": f"not done after {SECONDS} seconds"}
        return receiver.recv()
    except EOFError:
        return {"error": "the process ended without a word"}
    finally:
        process.kill()
        process.join()


def make(tried: Tried, path: Path) -> Any:
    """Writes the folder; returns the pipeline that it was written from."""
    import diffusers

    pipeline_class = getattr(diffusers, tried.pipeline)
    pool: dict[str, Any] = {}
    for recipe in tried.recipes:
        module, _, function = recipe.rpartition(".")
        made = getattr(importlib.import_module(f"testbed.zoo.{module}"), function)
        pool |= made(pool) if inspect.signature(made).parameters else made()
    taken = inspect.signature(pipeline_class.__init__).parameters
    given = {name: None for name, one in taken.items() if one.default is one.empty and name != "self"}
    given |= {name: one for name, one in {**pool, **tried.config}.items() if name in taken}
    pipeline = pipeline_class(**given)
    pipeline.save_pretrained(path, safe_serialization=True)
    (path / "generation_defaults.json").write_text(json.dumps(dict(tried.defaults)))
    return pipeline


def _classic(tried: Tried, work: Path) -> dict[str, Any]:
    """What diffusers makes of the folder by itself."""
    import numpy as np
    import torch
    from diffusion_worker.model.cases import pictures

    make(tried, work / "model")
    import diffusers

    pipeline = getattr(diffusers, tried.pipeline).from_pretrained(work / "model", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    taken = inspect.signature(pipeline.__call__).parameters
    side = int(tried.defaults.get("width", 32))
    given: dict[str, Any] = {"prompt": "a red seven on a black background", "num_inference_steps": 3, "num_frames": 9}
    given |= {"height": side, "width": side, "strength": 0.6, **tried.defaults}
    given["video_length"] = given["frames"] = given["num_frames"]
    given["true_cfg_scale"] = given.get("guidance_scale")
    given |= pictures({name: (side, side) for name in tried.pictures})
    for name, number in tried.lists.items():
        given[name] = [*pictures({str(one): (side, side) for one in range(number)}).values()]
    given = {name: value for name, value in given.items() if name in taken and value is not None}
    given |= tried.call
    if "generator" in taken:
        given["generator"] = torch.Generator("cpu").manual_seed(7)
    if "output_type" in taken and taken["output_type"].default == "pil":
        given["output_type"] = "np"
    with torch.no_grad():
        made = pipeline(**given)
    fields = [name for name in ("frames", "videos", "images", "image", "audios") if getattr(made, name, None) is not None]
    if not fields:
        return {"makes": type(made).__name__, "shape": ""}
    value = getattr(made, fields[0])
    if not all(np.isfinite(np.asarray(one)).all() for one in (value if isinstance(value, (list, tuple)) else [value])):
        raise ValueError("what it makes is not finite")
    first = value[0] if isinstance(value, (list, tuple)) else value
    shape = list(getattr(first, "shape", ())) or [len(value), getattr(first, "size", "")]
    return {"makes": fields[0], "shape": str(shape)}


def _checked(tried: Tried, work: Path) -> dict[str, Any]:
    """The report of this project's check on the folder."""
    from diffusion_worker.model import ModelError, check, trial
    from diffusion_worker.model.folder import open_folder

    options = check.Options(dtype="float32", device="cpu", threads=1, allow_pickle=False, variant="")
    try:
        folder = open_folder(work / "model")
        (work / "request.json").write_text(json.dumps(check.request_of(folder)))
        namespace = argparse.Namespace(path=work / "model", work=work, small=False, **vars(options))
        report = check.judge(folder, trial.run(namespace), options, small=False)
    except ModelError as error:
        return {"verdict": check.REFUSED, "error": str(error).replace(f"{work / 'model'}: ", "")}
    return report
