"""A pipeline of real processes with ControlNets: the bytes are those of one process, led and not."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from diffusion_worker.model import Control, ControlNetFiles, Parameters, load_model, resolve_model
from diffusion_worker.model.driving import Direct
from diffusionpipeline.words import STAGES
from testbed.examples import resource
from testbed.led_digits import control_net
from testbed.pipelines import at_rest, peers, running
from testbed.waiting import until

SIZE = 64
PROMPT, SEED = "a red seven", 7

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8))


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def test_led_and_unled_requests_are_those_of_one_process(tmp_path: Path) -> None:
    edges, depth = control_net(tmp_path / "edges"), control_net(tmp_path / "nets" / "depth", seed=1)
    listed = [
        {"name": "edges", "source": "Path", "id": str(edges)},
        {"name": "depth", "source": "Path", "id": str(tmp_path / "nets"), "subfolder": "depth", "scale": 0.7},
    ]
    with running(resource("digits", model__controlNets=listed), tmp_path / "data") as local:
        one, other, picture = drawn(1), drawn(2), drawn(3)
        with httpx.Client(base_url=local.http_url, timeout=60) as client:
            assert client.get("/v1/models").json()["data"][0]["control_nets"] == ["depth", "edges"]
            inline = {"name": "edges", "image": base64.b64encode(png(one)).decode(), "scale": 0.6}
            made = {
                "led": generated(client, [inline]),
                "not led": generated(client, None),
                "by two": edited(client, [{"name": "depth", "end": 0.9}, {"name": "edges"}], [one, other], picture),
            }
        until(lambda: at_rest(local), 15, "slots, outputs and tasks are given back")
        assert len(peers(local)) == 3
    files = [ControlNetFiles("edges", edges), ControlNetFiles("depth", depth, 0.7)]
    by_two = [Control(name="depth", image=one, end=0.9), Control(name="edges", image=other)]
    assert made == {
        "led": whole(files, controls=[Control(name="edges", image=one, scale=0.6)]),
        "not led": whole([]),
        "by two": whole(files, controls=by_two, images={"image": picture}, strength=0.6),
    }
    assert len(set(made.values())) == 3


def generated(client: httpx.Client, controls: Any) -> bytes:
    request = {"prompt": PROMPT, "seed": SEED, **({"controls": controls} if controls else {})}
    return picture_of(client.post("/v1/images/generations", json=request))


def edited(client: httpx.Client, controls: Any, pictures: list[Image.Image], image: Image.Image) -> bytes:
    form = {"prompt": PROMPT, "seed": str(SEED), "strength": "0.6", "controls": json.dumps(controls)}
    files = [("image", ("image.png", png(image))), *(("controls[image]", ("c.png", png(one))) for one in pictures)]
    return picture_of(client.post("/v1/images/edits", data=form, files=files))


def picture_of(answer: httpx.Response) -> bytes:
    assert answer.status_code == 200, answer.text
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


def whole(files: list[ControlNetFiles], **fields: Any) -> bytes:
    """What one process makes."""
    model = load_model(
        path=resolve_model("Bundled", "digits", ""),
        stages=frozenset(STAGES),
        dtype="float32",
        device="cpu",
        control_nets=files,
    )
    request = Parameters(prompt=PROMPT, seed=SEED, **fields)
    (picture,) = model.decode(model.denoise(model.encode(request), request, Direct()))
    return picture.data
