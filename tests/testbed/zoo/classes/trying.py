"""Makes a folder of one pipeline class and tries it: by diffusers alone, and whole and cut by this project.

One process imports the libraries; each try is a few forks of it, so that the next costs no start of torch and nothing
that one leaves behind reaches another.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import inspect
import io
import json
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from testbed.zoo.classes.kind import Tried

FIELDS = ("frames", "videos", "images", "image", "audios")
"""Of an output, what is made."""
DEFAULT_FPS = 16
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
    # Some pipelines share a transformer's parts with their control net, which published ones come without.
    controlnet = copy.deepcopy(given.get("controlnet"))
    pipeline = pipeline_class(**given)
    pipeline.save_pretrained(path, safe_serialization=True)
    if controlnet is not None:
        controlnet.save_pretrained(path / "controlnet", safe_serialization=True)
    (path / "generation_defaults.json").write_text(json.dumps(dict(tried.defaults)))
    return pipeline


def _classic(tried: Tried, work: Path) -> dict[str, Any]:
    """What diffusers makes of the folder by itself."""
    import numpy as np

    from diffusion_worker.model.cases import pictures

    make(tried, work / "model")
    side = int(tried.defaults.get("width", 32))
    given: dict[str, Any] = {"prompt": "a red seven on a black background", "num_inference_steps": 3, "num_frames": 9}
    given |= {"height": side, "width": side, "strength": 0.6, "seed": 7, **tried.defaults}
    given |= pictures(dict.fromkeys(tried.pictures, (side, side)))
    for name, number in tried.lists.items():
        given[name] = [*pictures({str(one): (side, side) for one in range(number)}).values()]
    made = called(tried, work, given)
    found = [name for name in FIELDS if getattr(made, name, None) is not None]
    if not found:
        return {"makes": type(made).__name__}
    value = getattr(made, found[0])
    if not all(np.isfinite(np.asarray(one)).all() for one in (value if isinstance(value, (list, tuple)) else [value])):
        raise ValueError("what it makes is not finite")
    return {"makes": found[0]}


def called(
    tried: Tried, work: Path, given: dict[str, Any], *, prepared: Callable[[Any], None] = lambda pipeline: None
) -> Any:
    """What diffusers' own pipeline returns, `prepared`, for those of the arguments that it takes."""
    import diffusers
    import torch

    pipeline = getattr(diffusers, tried.pipeline).from_pretrained(work / "model", local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    if tried.tiled:
        pipeline.vae.enable_tiling()
    prepared(pipeline)
    taken = _taken(tried)
    frames = given.get("num_frames")
    given = given | {"video_length": frames, "true_cfg_scale": given.get("guidance_scale")}
    given = {"frames": frames, **given}
    given |= {"generator": torch.Generator("cpu").manual_seed(given["seed"])}
    given = {name: value for name, value in given.items() if name in taken and value is not None} | tried.call
    if "output_type" in taken and taken["output_type"].default in ("pil", "np"):
        given["output_type"] = "np"
    # What it draws without a generator.
    torch.manual_seed(7)
    with torch.no_grad():
        return pipeline(**given)


def _difference(tried: Tried, work: Path, use: str, request: dict[str, Any], output: str) -> int:
    """The largest difference of a pixel (0 to 255) between the file of a use and what diffusers makes by itself."""
    from diffusion_worker.model import media
    from diffusion_worker.model.cases import pictures
    from diffusion_worker.model.inputs import own_name

    taken = _taken(tried)
    images = {str(own_name(name, taken)): one for name, one in pictures(request.pop("images", {})).items()}
    made = called(tried, work, {**tried.defaults, **request, **images})
    frames = media.frames_of(next(getattr(made, name) for name in FIELDS if getattr(made, name, None) is not None))
    ours = (work / f"{use}.decode").read_bytes()
    if output == "image":
        theirs = media.encode_image(frames[0], "png").data
    else:
        theirs = media.encode_video(frames[0], DEFAULT_FPS).data
    return 0 if ours == theirs else _apart(_pixels(ours, output), _pixels(theirs, output))


def _apart(ours: Any, theirs: Any) -> int:
    import numpy as np

    if ours.shape != theirs.shape:
        return 255
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


def _pixels(data: bytes, output: str) -> Any:
    import av
    import numpy as np
    from PIL import Image

    if output == "image":
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _checked(tried: Tried, work: Path) -> dict[str, Any]:
    """The report of this project's check on the folder."""
    from diffusion_worker.model import ModelError, check, trial
    from diffusion_worker.model.folder import open_folder
    from diffusion_worker.model.inputs import own_name

    options = check.Options(dtype="float32", device="cpu", threads=1, allow_pickle=False, variant="")
    try:
        folder = open_folder(work / "model")
        (work / "request.json").write_text(json.dumps(check.request_of(folder)))
        namespace = argparse.Namespace(path=work / "model", work=work, small=False, **vars(options))
        report = check.judge(folder, trial.run(namespace), options, small=False)
    except ModelError as error:
        return {"verdict": check.REFUSED, "error": str(error).replace(f"{work / 'model'}: ", "")}
    uses = {use: case["request"] for use, case in report["cases"].items() if case.get("identical")}
    own = [
        use for use, request in uses.items() if all(own_name(name, _taken(tried)) for name in request.get("images", ()))
    ]
    if report["way"] == "replay" and own:
        # The use that takes most.
        report["apart"] = _difference(tried, work, own[-1], dict(uses[own[-1]]), report["output"])
    return report


def _taken(tried: Tried) -> Mapping[str, inspect.Parameter]:
    import diffusers

    return inspect.signature(getattr(diffusers, tried.pipeline).__call__).parameters
