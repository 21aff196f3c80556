"""What a worker says of its IP-Adapters, and what it makes of a task that names one."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image

from diffusion_worker.model import IPAdapter
from diffusion_worker.settings import Settings
from diffusion_worker.work.tasks import parameters
from diffusionpipeline.v1 import peer_pb2, stage_pb2

from .conftest import Start
from .scripted_router import ENCODE, ScriptedRouter


async def test_they_are_told_by_name_once_beside_control_nets(start: Start, router: ScriptedRouter) -> None:
    of_hub = {"source": "Hub", "id": "maker/looks"}
    shown = [{"name": name, "file": f"{name}.safetensors", **of_hub} for name in ("style", "face")]
    worker = await start(ip_adapters=shown, control_nets=[{"name": "edges", **of_hub}])
    stream = await worker.stream()
    assert stream.register.adapters == peer_pb2.Adapters(control_nets=["edges"], ip_adapters=["style", "face"])
    await stream.until(lambda: bool(stream.said("heartbeat")), "a heartbeat")
    said = [one for one in stream.said("heartbeat") if one.heartbeat.HasField("adapters")]
    assert not said, "what is not new is not said again"


async def test_an_encoder_is_given_each_with_the_picture_that_came_for_it(start: Start, router: ScriptedRouter) -> None:
    worker = await start()
    stream = await worker.stream()
    for shade in (1, 2, 3):
        picture = io.BytesIO()
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(picture, "PNG")
        router.files[f"in/{shade}"] = picture.getvalue()
    inputs = [
        stage_pb2.InputFile(name=name, key=f"in/{shade}", media_type="image/png")
        for name, shade in (("ip_adapters", 1), ("image", 2), ("ip_adapters", 3))
    ]
    style, face = stage_pb2.IPAdapter(name="style", scale=0.5), stage_pb2.IPAdapter(name="face")
    await stream.execute(ENCODE, "e", inputs=inputs, ip_adapters=[style, face])
    await stream.done("e")
    shown = [(one.name, one.scale, one.image.getpixel((0, 0))) for one in worker.model.ip_adapters]
    assert shown == [("style", 0.5, (1, 0, 0)), ("face", None, (3, 0, 0))]
    assert worker.model.images["image"].getpixel((0, 0)) == (2, 0, 0)
    assert worker.model.images.keys() == {"image"}


def test_each_has_the_picture_of_its_place() -> None:
    one, other, led = (Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (1, 2, 3))
    named = [stage_pb2.IPAdapter(name="a", scale=0.0), stage_pb2.IPAdapter(name="b")]
    message = stage_pb2.JobParameters(prompt="x", ip_adapters=named, controls=[stage_pb2.Control(name="edges")])
    read = parameters(message, {"ip_adapters": [one, other], "controls": led, "image": other})
    assert read.ip_adapters == (IPAdapter(name="a", image=one, scale=0.0), IPAdapter(name="b", image=other))
    assert [control.image for control in read.controls] == [led]
    assert read.images == {"image": other}
    alone = parameters(stage_pb2.JobParameters(ip_adapters=named[:1]), {"ip_adapters": one})
    assert [shown.image for shown in alone.ip_adapters] == [one]
    later = parameters(message, {"ip_adapters": None})
    assert [(shown.name, shown.image) for shown in later.ip_adapters] == [("a", None), ("b", None)]


@pytest.mark.parametrize(
    "wrong",
    [
        [{"name": "a/b", "source": "Path", "id": "/x", "file": "y.safetensors"}],
        [{"name": "a", "source": "Url", "id": "http://x", "file": "y.safetensors"}],
        [{"name": "a", "source": "Path", "id": "/x"}],
        [{"name": "a", "source": "Path", "id": "/x", "file": "../y.safetensors"}],
        [{"name": "a", "source": "Path", "id": "/x", "file": "/y.safetensors"}],
        [{"name": "a", "source": "Path", "id": "/x", "file": "y.pt"}],
        [{"name": "a", "source": "Path", "id": "/x", "file": "y.bin", "image_encoder": "../z"}],
        [{"name": "a", "source": "Path", "id": "/x", "file": "y.bin"}] * 2,
        [{"name": "a", "source": "Path", "id": "/x", "file": "y.bin", "scale": "NaN"}],
    ],
    ids=[
        "a path for a name",
        "no such source",
        "no file",
        "a path out of the folder",
        "an absolute path",
        "no such file of weights",
        "an encoder out of the folder",
        "a name twice",
        "no number",
    ],
)
def test_settings_are_refused(wrong: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUSION_WORKER_IP_ADAPTERS", json.dumps(wrong))
    monkeypatch.setenv("DIFFUSION_WORKER_ROLES", "denoiser")
    with pytest.raises(ValueError, match="ip_adapters"):
        Settings()
