"""Pictures, masks and videos that clients send to real processes: the answer's bytes are those of the model in one."""

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

from diffusion_worker.model import Media, Parameters, load_model
from diffusion_worker.model.driving import Direct
from diffusion_worker.model.media import encode_video
from diffusion_worker.work.opening import Bounds, open_files
from diffusionpipeline.words import STAGES
from testbed.examples import resource
from testbed.pipelines import JOB_SECONDS, running
from testbed.waiting import until
from testbed.zoo import FAMILIES, Family, ensure

FORM_FIELDS = {"mask_image": "mask"}
Files = dict[str, list[bytes]]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    "family",
    [
        "flux2-klein-references",
        pytest.param("qwen-edit-references", marks=pytest.mark.thorough),
        pytest.param("qwen-layered", marks=pytest.mark.thorough),
        pytest.param("sd15-controlnet", marks=pytest.mark.thorough),
        pytest.param("sd15-inpaint", marks=pytest.mark.thorough),
        pytest.param("wan22-vace", marks=pytest.mark.thorough),
    ],
)
def test_what_processes_make_of_it_is_what_one_makes(family: str, tmp_path: Path) -> None:
    one = FAMILIES[family]
    model = {"source": "Path", "id": str(ensure(one.checkpoint)), "dtype": "float32"}
    files = sent(one)
    with running(resource("digits", model=model), tmp_path) as local, httpx.Client(base_url=local.http_url) as client:
        ask = film if one.output == "video" else edit
        made = ask(client, one, files)
        turned = {name: [*reversed(data)] for name, data in files.items()}
        assert turned == files or ask(client, one, turned) != made, "their order counts"
    assert made == whole(one, files)


def sent(family: Family) -> Files:
    """What the request brings, by the name of the argument."""
    draws = np.random.default_rng(5)
    files: Files = {}
    for name, size in family.images.items():
        sizes = size if isinstance(size[0], tuple) else (size,)
        files[name] = [_png(draws.integers(0, 256, (high, wide, 3), np.uint8)) for wide, high in sizes]
    for name, (wide, high, frames) in family.videos.items():
        files[name] = [encode_video(draws.integers(0, 256, (frames, high, wide, 3), np.uint8), 8).data]
    return files


def edit(client: httpx.Client, family: Family, files: Files) -> list[bytes]:
    answer = client.post("/v1/images/edits", data=_fields(family), files=_parts(files), timeout=JOB_SECONDS)
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(picture["b64_json"]) for picture in answer.json()["data"]]


def film(client: httpx.Client, family: Family, files: Files) -> list[bytes]:
    answer = client.post("/v1/videos", data=_fields(family), files=_parts(files))
    assert answer.status_code == 200, answer.text
    path = f"/v1/videos/{answer.json()['id']}"
    until(lambda: client.get(path).json()["status"] in ("completed", "failed"), JOB_SECONDS, "the video has ended")
    answer = client.get(f"{path}/content")
    assert answer.status_code == 200, answer.text
    return [answer.content]


def whole(family: Family, files: Files) -> list[bytes]:
    images: Any = {name: open_files(name, data, Bounds(pixels=1 << 20)) for name, data in files.items()}
    output_format = "mp4" if family.output == "video" else "png"
    parameters = Parameters(**family.request, images=images, output_format=output_format)
    model = load_model(path=ensure(family.checkpoint), stages=frozenset(STAGES), dtype="float32", device="cpu")
    media: list[Media] = model.decode(model.denoise(model.encode(parameters), parameters, Direct()))
    return [file.data for file in media]


def _png(pixels: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def _fields(family: Family) -> dict[str, Any]:
    fields = dict(family.request)
    if "width" in fields:
        fields["size"] = f"{fields.pop('width')}x{fields.pop('height')}"
    if "extra" in fields:
        fields["model_args"] = json.dumps(fields.pop("extra"))
    return fields


def _parts(files: Files) -> list[tuple[str, tuple[str, bytes]]]:
    return [(FORM_FIELDS.get(name, name), (name, one)) for name, data in files.items() for one in data]
