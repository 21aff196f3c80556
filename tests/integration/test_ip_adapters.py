"""A pipeline of real processes with IP-Adapters: what it makes, with them and without, is what one process makes."""

from __future__ import annotations

import json

import httpx
import pytest

from diffusion_worker.model import Control, ControlNetFiles, IPAdapter, IPAdapterFiles
from integration.conftest import Extended
from testbed.digits_with import drawn, edited, generated, inline, whole
from testbed.pipelines import at_rest, peers
from testbed.waiting import until

pytestmark = pytest.mark.usefixtures("one_thread")


def test_requests_that_show_pictures_and_others_are_those_of_one_process(extended: Extended) -> None:
    local = extended.local
    one, other, picture = drawn(1), drawn(2), drawn(3)
    look, edge = {"name": "look", "image": inline(one), "scale": 0.6}, {"name": "edges", "image": inline(other)}
    two = json.dumps([{"name": "style"}, {"name": "look"}])
    with httpx.Client(base_url=local.http_url, timeout=60) as client:
        assert client.get("/v1/models").json()["data"][0]["ip_adapters"] == ["look", "style"]
        made = {
            "shown": generated(client, ip_adapters=[look]),
            "not shown": generated(client),
            "two": edited(client, picture, {"ip_adapters[image]": [one, other]}, ip_adapters=two),
            "led too": generated(client, ip_adapters=[look], controls=[edge]),
        }
    until(lambda: at_rest(local), 15, "slots, outputs and tasks are given back")
    assert len(peers(local)) == 3
    folder = extended.shown
    encoder = folder / "image_encoder"
    loaded = {
        "ip_adapters": [
            IPAdapterFiles("look", folder / "look.safetensors", encoder),
            IPAdapterFiles("style", folder / "style.safetensors", encoder, 0.7),
        ],
        "control_nets": [ControlNetFiles("edges", extended.edges)],
    }
    shown = [IPAdapter(name="look", image=one, scale=0.6)]
    both = [IPAdapter(name="style", image=one), IPAdapter(name="look", image=other)]
    assert made == {
        "shown": whole(loaded, ip_adapters=shown),
        "not shown": whole({}),
        "two": whole(loaded, ip_adapters=both, images={"image": picture}, strength=0.6),
        "led too": whole(loaded, ip_adapters=shown, controls=[Control(name="edges", image=other)]),
    }
    assert len(set(made.values())) == 4
