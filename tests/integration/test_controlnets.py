"""A pipeline of real processes with ControlNets: the bytes are those of one process, led and not."""

from __future__ import annotations

import json

import httpx
import pytest

from diffusion_worker.model import Control, ControlNetFiles
from integration.conftest import Extended
from testbed.digits_with import drawn, edited, generated, inline, whole
from testbed.pipelines import at_rest, peers
from testbed.waiting import until

pytestmark = pytest.mark.usefixtures("one_thread")


def test_led_and_unled_requests_are_those_of_one_process(extended: Extended) -> None:
    local = extended.local
    one, other, picture = drawn(1), drawn(2), drawn(3)
    two = json.dumps([{"name": "depth", "end": 0.9}, {"name": "edges"}])
    with httpx.Client(base_url=local.http_url, timeout=60) as client:
        assert client.get("/v1/models").json()["data"][0]["control_nets"] == ["depth", "edges"]
        made = {
            "led": generated(client, controls=[{"name": "edges", "image": inline(one), "scale": 0.6}]),
            "not led": generated(client),
            "by two": edited(client, picture, {"controls[image]": [one, other]}, controls=two),
        }
    until(lambda: at_rest(local), 15, "slots, outputs and tasks are given back")
    assert len(peers(local)) == 3
    loaded = {"control_nets": [ControlNetFiles("edges", extended.edges), ControlNetFiles("depth", extended.depth, 0.7)]}
    by_two = [Control(name="depth", image=one, end=0.9), Control(name="edges", image=other)]
    assert made == {
        "led": whole(loaded, controls=[Control(name="edges", image=one, scale=0.6)]),
        "not led": whole({}),
        "by two": whole(loaded, controls=by_two, images={"image": picture}, strength=0.6),
    }
    assert len(set(made.values())) == 3
