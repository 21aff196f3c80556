"""A worker loads the ControlNets and IP-Adapters that its settings name of a hub: of each, what its role needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffusion_worker.loading import load
from diffusion_worker.settings import Settings
from diffusionpipeline.words import Role
from testbed.led_digits import control_net
from testbed.shown_digits import ip_adapters


@pytest.fixture
def beside(hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of both, on a hub that is this process's own."""
    control_net(tmp_path / "nets" / "edges")
    ip_adapters(tmp_path / "looks" / "sdxl")
    for name in ("nets", "looks"):
        hub.add(f"maker/{name}", tmp_path / name)
    for name, value in {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    return {
        "control_nets": [{"name": "edges", "source": "Hub", "id": "maker/nets", "subfolder": "edges"}],
        "ip_adapters": [{"name": "look", "source": "Hub", "id": "maker/looks", "file": "sdxl/look.safetensors"}],
    }


WEIGHTS = {
    Role.ENCODER: {"image_encoder/model.safetensors", "sdxl/look.safetensors"},
    Role.DENOISER: {"edges/diffusion_pytorch_model.safetensors", "sdxl/look.safetensors"},
    Role.DECODER: set[str](),
}


@pytest.mark.parametrize("role", WEIGHTS)
def test_of_each_role(role: Role, hub, beside: dict[str, Any]) -> None:
    loaded = load(Settings(roles=[role], **beside), lambda done, total: None, lambda: None)
    fetched = {"/".join(one.path.split("/")[-2:]) for one in hub.asked("*.safetensors", "GET")}
    assert fetched == WEIGHTS[role]
    served = {name for one in loaded.model.workflows for name in one.images}
    assert served >= {"controls", "ip_adapters"}
