"""Requests to the bundled model with pictures beside: what a pipeline's API makes of them, and what a process does."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
from PIL import Image

SIZE = 64
PROMPT, SEED = "a red seven", 7


def drawn(seed: int) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8))


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def inline(picture: Image.Image) -> str:
    """As a request in JSON has it."""
    return base64.b64encode(png(picture)).decode()


def generated(client: httpx.Client, **fields: Any) -> bytes:
    return _picture(client.post("/v1/images/generations", json={"prompt": PROMPT, "seed": SEED, **fields}))


def edited(client: httpx.Client, image: Image.Image, beside: dict[str, Sequence[Image.Image]], **fields: str) -> bytes:
    """By a form. `beside`: files by their name."""
    files = [("image", ("image.png", png(image)))]
    files += [(name, ("beside.png", png(one))) for name, pictures in beside.items() for one in pictures]
    form = {"prompt": PROMPT, "seed": str(SEED), "strength": "0.6", **fields}
    return _picture(client.post("/v1/images/edits", data=form, files=files))


def whole(loaded: dict[str, Any], **fields: Any) -> bytes:
    """What one process makes, with a model that is `loaded` so."""
    from diffusion_worker.model import Parameters, load_model, resolve_model
    from diffusion_worker.model.driving import Direct
    from diffusionpipeline.words import STAGES

    model = load_model(
        path=resolve_model("Bundled", "digits", ""), stages=frozenset(STAGES), dtype="float32", device="cpu", **loaded
    )
    request = Parameters(prompt=PROMPT, seed=SEED, **fields)
    (picture,) = model.decode(model.denoise(model.encode(request), request, Direct()))
    return picture.data


def _picture(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])
