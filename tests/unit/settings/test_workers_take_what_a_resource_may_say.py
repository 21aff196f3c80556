"""What the operator tells workers of a resource that it accepts, workers accept too."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_operator.render import render
from diffusion_worker.settings import Settings
from unit.render.children import environment, pipeline, shared_environment, stateful_sets

HUB = {"name": "a", "source": "Hub", "id": "b/c"}
SAID: list[tuple[str, dict[str, Any]]] = [
    ("adapters", {"adapters": [{**HUB, "file": "d e/f.safetensors"}, {**HUB, "name": "g", "scale": 0.5}]}),
    ("control_nets", {"controlNets": [{**HUB, "subfolder": "d/e"}, {**HUB, "name": "g", "revision": "h/i"}]}),
    ("ip_adapters", {"ipAdapters": [{**HUB, "file": "d e/f.safetensors", "imageEncoder": {"subfolder": "g/h"}}]}),
    ("ip_adapters", {"ipAdapters": [{**HUB, "file": "d.safetensors", "imageEncoder": {"id": "e/f", "revision": "g"}}]}),
    ("ip_adapters", {"ipAdapters": [{**HUB, "file": "d.bin", "scale": -1}], "allowPickle": True}),
    ("schedulers", {"schedulers": [{"name": "a", "class": "B", "options": {"c": 1, "d": True, "e": "f"}}]}),
]


@pytest.mark.parametrize(
    ("encoder", "pods", "heard"),
    [
        ({"cacheShare": 0.25}, "encoder", 0.25),
        ({"cacheShare": 0}, "encoder", 0.0),
        ({"cacheShare": 1}, "encoder", 1.0),
        ({}, "encoder", 0.5),
        ({"cacheShare": 0.25, "colocateWith": "denoiser"}, "denoiser", 0.25),
    ],
)
def test_of_what_its_encoders_keep(
    encoder: dict[str, Any], pods: str, heard: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = render(pipeline(roles={"encoder": encoder, "denoiser": {}, "decoder": {}}))
    for name, value in environment(stateful_sets(children)[pods]).items():
        if name.startswith("DIFFUSION_WORKER_"):
            monkeypatch.setenv(name, value)
    assert Settings(roles=["encoder"]).cache_share == heard


def test_what_encoders_keep_replaces_no_other_pods() -> None:
    def sets(**encoder: Any) -> dict[str, Any]:
        return stateful_sets(render(pipeline(roles={"encoder": encoder, "denoiser": {}, "decoder": {}})))

    before, after = sets(), sets(cacheShare=0.25)
    assert before["denoiser"]["spec"]["template"]["spec"] == after["denoiser"]["spec"]["template"]["spec"]
    assert before["encoder"]["spec"]["template"]["spec"] != after["encoder"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(("setting", "said"), SAID, ids=[setting for setting, _ in SAID])
def test_of_its_model(setting: str, said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    children = render(pipeline(model=said))
    denoiser = stateful_sets(children)["denoiser"]
    for name, value in (shared_environment(children) | environment(denoiser)).items():
        if name.startswith("DIFFUSION_WORKER_"):
            monkeypatch.setenv(name, value)
    (wanted,) = (value for value in said.values() if isinstance(value, list))
    heard = getattr(Settings(roles=["denoiser"]), setting)
    assert [one.name for one in heard] == [one["name"] for one in wanted]
