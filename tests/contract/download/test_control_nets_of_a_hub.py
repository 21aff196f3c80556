"""A ControlNet that a hub has: its config for every role, its weights for denoisers, of one variant and one kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from diffusion_worker.model import ControlNetFiles, DownloadFailed, UnsupportedModel
from diffusion_worker.model.adapter_files import Means
from diffusion_worker.model.control_files import Named, at_path, from_hub

WEIGHTS = "diffusion_pytorch_model.safetensors"
HALF = "diffusion_pytorch_model.fp16.safetensors"
PICKLE = "diffusion_pytorch_model.bin"


@pytest.fixture
def get(hub, tmp_path: Path) -> Callable[..., ControlNetFiles]:
    repository = tmp_path / "nets"
    for folder, names in {"": (WEIGHTS, HALF, PICKLE), "depth/small": (WEIGHTS,), "old": (PICKLE,), "none": ()}.items():
        (repository / folder).mkdir(parents=True, exist_ok=True)
        for name in ("config.json", "README.md", *names):
            (repository / folder / name).write_bytes(b"0123456789")
    hub.add("maker/nets", repository)

    def get(
        id: str = "maker/nets", revision: str = "", subfolder: str = "", *, whole: bool = True, **given: object
    ) -> ControlNetFiles:
        return from_hub(
            Named(name="edges", id=id, revision=revision, subfolder=subfolder, scale=0.5),
            Means(patience_seconds=5.0, endpoint=hub.endpoint, cache=tmp_path / "cache", **{"offline": False, **given}),
            whole=whole,
        )

    return get


def names(found: ControlNetFiles) -> list[str]:
    return sorted(one.name for one in found.path.iterdir() if one.is_file())


def test_who_denoises_gets_weights_and_others_the_config_alone(hub, get) -> None:
    assert names(get(whole=False)) == ["config.json"]
    found = get()
    assert (found.name, found.scale, names(found)) == ("edges", 0.5, ["config.json", WEIGHTS])
    hub.forget()
    assert get() == get(whole=False) == get(offline=True) == found
    assert not hub.asked()


def test_the_models_variant_is_taken_where_there_is_one(get) -> None:
    assert names(get(variant="fp16")) == ["config.json", HALF]
    assert names(get(variant="fp16", subfolder="depth/small")) == ["config.json", WEIGHTS]


def test_a_pickle_is_taken_where_it_is_allowed(get) -> None:
    with pytest.raises(UnsupportedModel, match=r"^model\.controlNets\[edges\]: .* a pickle that may run any code"):
        get(subfolder="old")
    assert names(get(subfolder="old", allow_pickle=True)) == ["config.json", PICKLE]


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"id": "maker/nothing"}, r"^model\.controlNets\[edges\]\.id: .* maker/nothing \(401\)"),
        (
            {"revision": "v9"},
            r"^model\.controlNets\[edges\]\.revision: repository maker/nets of the hub has no .* 'v9'",
        ),
        ({"subfolder": "no"}, r"^model\.controlNets\[edges\]\.id: repository maker/nets has no no/config.json"),
        ({"subfolder": "none"}, r"^model\.controlNets\[edges\]\.id: repository maker/nets lacks weights in none"),
        ({"offline": True}, r"^model\.controlNets\[edges\]: .* lacks maker/nets, and nothing may be downloaded"),
    ],
    ids=["no such repository", "no such revision", "no such folder", "no weights", "nothing may be downloaded"],
)
def test_why_there_is_none_is_said_by_field(get, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(DownloadFailed, match=said):
        get(**wrong)


def test_one_in_a_folder_has_to_be_mounted(tmp_path: Path) -> None:
    (tmp_path / "nets" / "edges").mkdir(parents=True)
    one = Named(name="edges", id=str(tmp_path / "nets"), subfolder="edges")
    assert at_path(one) == ControlNetFiles("edges", tmp_path / "nets" / "edges", 1.0)
    with pytest.raises(
        UnsupportedModel, match=r"^model\.controlNets\[edges\]\.id: there is no folder .*/none: mount it"
    ):
        at_path(Named(name="edges", id=str(tmp_path / "none")))
