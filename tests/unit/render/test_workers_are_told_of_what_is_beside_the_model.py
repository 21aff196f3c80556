"""Adapters, ControlNets, IP-Adapters and schedulers that a resource names reach the workers that need them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from diffusion_operator.api import Pipeline
from diffusion_operator.render import render
from unit.render.children import environment, of_kind, pipeline, stateful_sets, workers


def test_encoders_and_denoisers_alone_are_told_of_adapters() -> None:
    model = {
        "adapters": [{"name": "ink", "source": "Hub", "id": "a/ink"}],
        "adapterSource": {"path": "/adapters"},
    }
    told = {
        "DIFFUSION_WORKER_ADAPTERS": [
            {"name": "ink", "source": "Hub", "id": "a/ink", "revision": "", "file": "", "scale": 1.0}
        ],
        "DIFFUSION_WORKER_ADAPTER_FOLDER": "/adapters",
        "DIFFUSION_WORKER_MAX_LOADED_ADAPTERS": 8,
    }

    def heard(given: Pipeline) -> dict[str, dict[str, Any]]:
        return {
            role: {
                name: json.loads(value) if value[0] in "[8" else value
                for name, value in environment(found).items()
                if "ADAPTER" in name
            }
            for role, found in stateful_sets(render(given)).items()
        }

    assert heard(pipeline(model=model)) == {"router": {}, "encoder": told, "denoiser": told, "decoder": {}}
    colocated = {"encoder": {"colocateWith": "denoiser"}, "decoder": {"colocateWith": "denoiser"}}
    assert heard(pipeline(model=model, roles=colocated)) == {"router": {}, "denoiser": told}


def test_all_workers_are_told_of_schedulers_and_of_their_options_as_they_were_given() -> None:
    options = {"use_karras_sigmas": True, "shift": 3.0, "solver_order": 2, "algorithm_type": "sde-dpmsolver++"}
    given = [
        {"name": "fast", "class": "DPMSolverMultistepScheduler", "options": {**options, "left_out": None}},
        {"name": "plain", "class": "DDIMScheduler"},
    ]
    for found in workers(render(pipeline(model={"schedulers": given}))):
        first, second = json.loads(environment(found)["DIFFUSION_WORKER_SCHEDULERS"])
        assert first == {"name": "fast", "class": "DPMSolverMultistepScheduler", "options": options}
        assert [type(value) for value in first["options"].values()] == [bool, float, int, str]
        assert second == {"name": "plain", "class": "DDIMScheduler", "options": {}}


@pytest.mark.parametrize(
    ("field", "variable", "own", "own_told"),
    [
        ("controlNets", "CONTROL_NETS", {"subfolder": "canny"}, {"subfolder": "canny"}),
        ("ipAdapters", "IP_ADAPTERS", {"file": "b/c.bin"}, {"file": "b/c.bin", "image_encoder": ""}),
        ("ipAdapters", "IP_ADAPTERS", {"file": "b.bin", "imageEncoder": "d"}, {"file": "b.bin", "image_encoder": "d"}),
    ],
    ids=["ControlNets", "IP-Adapters", "an image encoder elsewhere"],
)
def test_all_workers_are_told_of_what_requests_bring_pictures_for(
    field: str, variable: str, own: dict[str, str], own_told: dict[str, str]
) -> None:
    model = {field: [{"name": "a", "source": "Hub", "id": "b/c", **own}], "allowPickle": True}
    told = [{"name": "a", "source": "Hub", "id": "b/c", "revision": "", "scale": 1.0, **own_told}]
    heard = {
        role: json.loads(environment(found).get(f"DIFFUSION_WORKER_{variable}", "null"))
        for role, found in stateful_sets(render(pipeline(model=model))).items()
    }
    assert heard == {"router": None, "encoder": told, "denoiser": told, "decoder": told}


@pytest.mark.parametrize("beside", ["adapters", "controlNets", "ipAdapters"])
@pytest.mark.parametrize("source", ["Hub", "Path"])
def test_workers_reach_a_hub_for_what_is_beside_a_model_that_is_not_downloaded(source: str, beside: str) -> None:
    own = {"file": "b.safetensors"} if beside == "ipAdapters" else {}
    model = {beside: [{"name": "ink", "source": source, "id": "/a/ink", **own}]}
    policies = of_kind(render(pipeline(model=model, networkPolicy={"mode": "Isolate"})), "NetworkPolicy")
    egress = policies["digits-workers"]["spec"]["egress"]
    assert ({"ports": [{"protocol": "TCP", "port": 443}]} in egress) == (source == "Hub")
