"""What a worker says of the schedulers that it can denoise by, as its settings list them."""

from __future__ import annotations

import json

import pytest

from diffusion_worker.loading import load
from diffusion_worker.settings import Settings

from .conftest import Start

FLOW = "FlowMatchEulerDiscreteScheduler"
LISTED = [
    {"name": "karras", "class": FLOW, "options": {"use_karras_sigmas": True, "shift": 2}},
    {"name": "plain", "class": FLOW},
]


async def test_they_are_told_when_it_registers(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUSION_WORKER_SCHEDULERS", json.dumps(LISTED))
    settings = Settings(roles=["denoiser"])
    options = settings.schedulers[0].options
    assert options == {"use_karras_sigmas": True, "shift": 2}
    assert [type(value) for value in options.values()] == [bool, int]
    loaded = load(settings, lambda *_: None, lambda: None)
    stream = await (await start(model=loaded.model)).stream()
    assert list(stream.register.schedulers) == ["karras", "plain"]


async def test_a_model_without_any_says_nothing(start: Start) -> None:
    stream = await (await start()).stream()
    assert list(stream.register.schedulers) == []


@pytest.mark.parametrize(
    "wrong",
    [
        [{"name": "a/b", "class": FLOW}],
        [{"name": "a", "class": "os.system"}],
        [{"name": "a"}],
        [{"name": "a", "class": FLOW}] * 2,
        [{"name": "a", "class": FLOW, "options": {"shift": [1]}}],
        [{"name": f"n{number}", "class": FLOW} for number in range(17)],
    ],
    ids=["a path for a name", "a path for a class", "no class", "a name twice", "a list for an option", "too many"],
)
def test_settings_are_refused(wrong: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFUSION_WORKER_SCHEDULERS", json.dumps(wrong))
    with pytest.raises(ValueError, match="schedulers"):
        Settings(roles=["denoiser"])
