"""A played hub with a published model on it, and downloads from it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diffusion_worker.model.download import Share, fetch
from diffusion_worker.model.patience import Patience
from diffusionpipeline.words import Stage
from testbed.model_hub import ModelHub, playing
from testbed.published import publish
from testbed.zoo.cache import ensure
from testbed.zoo.catalogue import SD3

ID = "maker/sd3"


class Hours:
    """Time that passes only where somebody waits for it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def patience(self, seconds: float = 300.0) -> Patience:
        return Patience(seconds, clock=lambda: self.now, sleep=self.sleep)


@pytest.fixture
def hours() -> Hours:
    return Hours()


Fetch = Callable[..., Path]
"""Of a stage; `share` are fields of its Share, the rest is fetch's."""


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(ensure(SD3), tmp_path_factory.mktemp("published") / "sd3")


@pytest.fixture
def hub(published: Path) -> Iterator[ModelHub]:
    with playing() as hub:
        hub.add(ID, published)
        yield hub


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No token of whoever runs the tests, and no question to any other hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))


@pytest.fixture
def environment(hub: ModelHub) -> dict[str, str]:
    """For a process that downloads from the played hub, with nothing of this machine's own settings of a hub."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return found | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}


@pytest.fixture
def fetched(hub: ModelHub, tmp_path: Path, hours: Hours) -> Fetch:
    """Fetches a role's share into the cache of this test, or another."""

    def fetch_share(*stages: Stage, share: dict[str, Any] | None = None, **options: Any) -> Path:
        wanted = Share(**{"id": ID, "revision": "", "stages": frozenset(stages), **(share or {})})
        place = {"endpoint": hub.endpoint, "cache": tmp_path / "cache", "offline": False}
        return fetch(wanted, **{"patience": hours.patience(), **place, **options})

    return fetch_share
