"""An adapter that a hub has: its safetensors files alone are fetched, once; what the hub refuses names the field."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from diffusion_worker.model import AdapterFile, DownloadFailed
from diffusion_worker.model.adapter_files import Means, from_hub, share_of

NAME = "pytorch_lora_weights.safetensors"


@pytest.fixture
def get(hub, tmp_path: Path) -> Callable[..., AdapterFile]:
    lora = tmp_path / "lora"
    lora.mkdir()
    for name in (NAME, "other.safetensors", "optimizer.bin", "README.md"):
        (lora / name).write_bytes(b"0123456789")
    hub.add("maker/lora", lora)

    def get(id: str = "maker/lora", revision: str = "", file: str = "", **given: object) -> AdapterFile:
        return from_hub(
            "style",
            share_of(id, revision),
            file,
            0.5,
            Means(patience_seconds=5.0, endpoint=hub.endpoint, cache=tmp_path / "cache", **{"offline": False, **given}),
        )

    return get


def test_its_safetensors_files_are_fetched_once(hub, get) -> None:
    found = get()
    assert (found.name, found.scale, found.file) == ("style", 0.5, "")
    assert sorted(one.name for one in found.path.iterdir()) == ["other.safetensors", NAME]
    hub.forget()
    assert get() == found
    assert get(offline=True) == found
    assert not hub.asked()


def test_one_file_of_several_can_be_named(get) -> None:
    found = get(file="other.safetensors")
    assert [one.name for one in found.path.iterdir()] == ["other.safetensors"]
    with pytest.raises(DownloadFailed, match=r"model\.adapters\[style\]\.file: repository maker/lora has no none\.saf"):
        get(file="none.safetensors")


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"id": "maker/nothing"}, r"^model\.adapters\[style\]\.id: .* maker/nothing \(401\)"),
        ({"revision": "v9"}, r"^model\.adapters\[style\]\.revision: repository maker/lora of the hub has no .* 'v9'"),
        ({"offline": True}, r"^model\.adapters\[style\]: .* lacks maker/lora, and nothing may be downloaded"),
    ],
    ids=["no such repository", "no such revision", "nothing may be downloaded"],
)
def test_why_there_is_none_is_said_by_field(get, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(DownloadFailed, match=said):
        get(**wrong)
