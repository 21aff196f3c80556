"""What a pipeline class makes with an IP-Adapter: by this project, and by diffusers alone."""

from __future__ import annotations

import dataclasses
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed.zoo.classes.kind import Tried
from testbed.zoo.classes.trying import FIELDS, called, make

SCALE = 0.6
_FILE = "look.safetensors"


def show(tried: Tried) -> dict[str, Any]:
    """`apart`: the largest difference of a pixel (0 to 1) between the two; `by it`: that the adapter makes.

    Raises UnsupportedModel where the class is not served, or has no IP-Adapters.
    """
    import numpy as np

    from diffusion_worker.model import IPAdapter, IPAdapterFiles, load_model, media
    from diffusion_worker.model.driving import Direct
    from diffusionpipeline.words import STAGES
    from testbed.digits_with import drawn
    from testbed.zoo.ip_adapters import ENCODER, write

    with tempfile.TemporaryDirectory(prefix="class-") as directory:
        work = Path(directory)
        pipeline = make(tried, work / "model")
        (work / "shown").mkdir()
        write(getattr(pipeline, "unet", None) or pipeline.transformer, work / "shown", ["look"])
        model = load_model(
            path=work / "model",
            stages=frozenset(STAGES),
            dtype="float32",
            device="cpu",
            ip_adapters=[IPAdapterFiles("look", work / "shown" / _FILE, work / "shown" / ENCODER)],
        )
        arguments = _arguments(tried)
        request = _request(arguments, "png" if model.output == "image" else "mp4")

        def ours(request: Any) -> Any:
            made: list[Any] = []
            original = media.frames_of
            # As the pipeline made them, before any encoding to a file.
            media.frames_of = lambda one: made.append(one) or original(one)
            try:
                model.decode(model.denoise(model.encode(request), request, Direct(gathers=True)))
            finally:
                media.frames_of = original
            return np.asarray(made[0])

        with_it = ours(dataclasses.replace(request, ip_adapters=[IPAdapter(name="look", image=drawn(3), scale=SCALE)]))
        given = {**arguments, "ip_adapter_image": [drawn(3)]}
        made = called(tried, work, given, prepared=_prepared(work / "shown" / ENCODER))
        theirs = np.asarray(next(getattr(made, name) for name in FIELDS if getattr(made, name, None) is not None))
        return {"apart": float(np.abs(with_it - theirs).max()), "by it": float(np.abs(with_it - ours(request)).max())}


def _arguments(tried: Tried) -> dict[str, Any]:
    """Of the pipeline, by its own names."""
    import diffusers

    from diffusion_worker.model.cases import pictures

    side = int(tried.defaults.get("width", 32))
    given: dict[str, Any] = {"prompt": "a red seven", "num_inference_steps": 3, "seed": 7}
    given |= {"width": side, "height": side, "strength": SCALE, **tried.defaults}
    given |= pictures(dict.fromkeys(tried.pictures, (side, side)))
    for name, number in tried.lists.items():
        given[name] = [*pictures({str(one): (side, side) for one in range(number)}).values()]
        given["num_frames"] = number
    taken = inspect.signature(getattr(diffusers, tried.pipeline).__call__).parameters
    return {name: value for name, value in given.items() if name in taken or name == "seed"}


def _request(arguments: dict[str, Any], output_format: str) -> Any:
    from diffusion_worker.model import Parameters
    from diffusion_worker.model.inputs import requested_name

    fields = {one.name for one in dataclasses.fields(Parameters)}
    images = {name: value for name, value in arguments.items() if not isinstance(value, str | bool | int | float)}
    plain = {name: value for name, value in arguments.items() if name not in images}
    return Parameters(
        **{name: value for name, value in plain.items() if name in fields},
        extra={name: value for name, value in plain.items() if name not in fields},
        images={requested_name(name): value for name, value in images.items()},
        output_format=output_format,
    )


def _prepared(encoder: Path) -> Callable[[Any], None]:
    from testbed.zoo.ip_adapters import load_into

    def prepare(pipeline: Any) -> None:
        load_into(pipeline, encoder.parent, [_FILE], encoder)
        pipeline.set_ip_adapter_scale(SCALE)

    return prepare
