"""A pipeline of real processes with ControlNets: the bytes are those of one process, led and not."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from diffusion_worker.model import Control, ControlNetFiles
from testbed.digits_with import drawn, edited, generated, inline, whole
from testbed.examples import resource
from testbed.led_digits import control_net
from testbed.pipelines import at_rest, peers, running
from testbed.waiting import until

pytestmark = pytest.mark.usefixtures("one_thread")


def test_led_and_unled_requests_are_those_of_one_process(tmp_path: Path) -> None:
    edges, depth = control_net(tmp_path / "edges"), control_net(tmp_path / "nets" / "depth", seed=1)
    listed = [
        {"name": "edges", "source": "Path", "id": str(edges)},
        {"name": "depth", "source": "Path", "id": str(tmp_path / "nets"), "subfolder": "depth", "scale": 0.7},
    ]
    with running(resource("digits", model__controlNets=listed), tmp_path / "data") as local:
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
    loaded = {"control_nets": [ControlNetFiles("edges", edges), ControlNetFiles("depth", depth, 0.7)]}
    by_two = [Control(name="depth", image=one, end=0.9), Control(name="edges", image=other)]
    assert made == {
        "led": whole(loaded, controls=[Control(name="edges", image=one, scale=0.6)]),
        "not led": whole({}),
        "by two": whole(loaded, controls=by_two, images={"image": picture}, strength=0.6),
    }
    assert len(set(made.values())) == 3
