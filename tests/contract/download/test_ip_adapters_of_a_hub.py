"""An IP-Adapter that a hub has: its file for encoders and denoisers, its image encoder for encoders alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from diffusion_worker.model import DownloadFailed, IPAdapterFiles, UnsupportedModel
from diffusion_worker.model.adapter_files import Means
from diffusion_worker.model.ip_adapter_files import ImageEncoder, NamedIPAdapter, at_path, from_hub
from diffusionpipeline.words import Stage

ENCODE, DENOISE, DECODE = (frozenset([stage]) for stage in Stage)
FILE, VIT_H = "sdxl_models/ip-adapter_sdxl.safetensors", "sdxl_models/ip-adapter_sdxl_vit-h.safetensors"
OWN, SHARED = "sdxl_models/image_encoder", "models/image_encoder"
PUBLISHED = {
    "": ("alone.safetensors", "README.md"),
    "sdxl_models": ("ip-adapter_sdxl.safetensors", "ip-adapter_sdxl_vit-h.safetensors", "ip-adapter_sdxl.bin"),
    OWN: ("config.json", "model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"),
    SHARED: ("config.json", "model.safetensors", "pytorch_model.bin"),
    "pieces": (
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ),
    "half": ("config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"),
    "old": ("config.json", "pytorch_model.bin"),
    "none": ("config.json",),
}


@pytest.fixture
def get(hub, tmp_path: Path) -> Callable[..., IPAdapterFiles]:
    repository = tmp_path / "looks"
    for folder, names in PUBLISHED.items():
        (repository / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (repository / folder / name).write_bytes(b"0123456789")
    hub.add("maker/looks", repository)

    def get(
        stages: frozenset[Stage] = ENCODE,
        id: str = "maker/looks",
        revision: str = "",
        file: str = FILE,
        subfolder: str = "",
        encoder_id: str = "",
        **given: object,
    ) -> IPAdapterFiles:
        encoder = ImageEncoder(id=encoder_id, subfolder=subfolder)
        return from_hub(
            NamedIPAdapter(name="style", id=id, revision=revision, file=file, image_encoder=encoder, scale=0.5),
            Means(patience_seconds=5.0, endpoint=hub.endpoint, cache=tmp_path / "cache", **{"offline": False, **given}),
            stages=stages,
        )

    return get


def fetched(found: IPAdapterFiles) -> list[str]:
    """All that came of the repository, as paths in it."""
    assert found.file is not None
    (root,) = (place for place in found.file.parents if place.parent.name == "snapshots")
    return sorted(str(one.relative_to(root)) for one in root.rglob("*") if one.is_file())


def test_encoders_get_both_denoisers_the_file_and_decoders_nothing(hub, get) -> None:
    decoder = get(DECODE)
    assert decoder == IPAdapterFiles("style", None, None, 0.5)
    assert not hub.asked()
    denoiser = get(DENOISE)
    assert (denoiser.name, denoiser.image_encoder, denoiser.scale) == ("style", None, 0.5)
    assert fetched(denoiser) == [FILE]
    encoder = get(ENCODE)
    assert encoder.file == denoiser.file
    assert encoder.image_encoder is not None
    assert encoder.image_encoder.is_relative_to(encoder.file.parent)
    assert fetched(encoder) == [f"{OWN}/config.json", f"{OWN}/model.safetensors", FILE]
    hub.forget()
    assert get() == get(frozenset(Stage)) == get(offline=True) == encoder
    assert get(DENOISE, offline=True) == denoiser
    assert not hub.asked()


def test_an_encoder_elsewhere_is_named(get) -> None:
    found = get(file=VIT_H, subfolder=SHARED)
    assert fetched(found) == [f"{SHARED}/config.json", f"{SHARED}/model.safetensors", VIT_H]
    alone = get(file="alone.safetensors", subfolder=OWN)
    assert alone.file is not None
    assert alone.file.name == "alone.safetensors"


def test_an_encoder_may_be_in_a_repository_of_its_own(hub, get, tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "preprocessor_config.json"):
        (tmp_path / "clip" / name).write_bytes(b"0123456789")
    hub.add("maker/clip", tmp_path / "clip")
    found = get(encoder_id="maker/clip")
    assert fetched(found) == [FILE]
    assert sorted(file.name for file in found.image_encoder.iterdir()) == ["config.json", "model.safetensors"]
    hub.forget()
    assert get(encoder_id="maker/clip", offline=True) == found
    assert not hub.asked()


def test_beside_a_file_in_the_root_it_is_in_the_root_too() -> None:
    assert NamedIPAdapter(name="style", id="maker/looks", file="alone.safetensors").encoder.subfolder == "image_encoder"


def test_the_encoders_weights_are_those_that_are_loaded(get) -> None:
    assert f"{OWN}/model.fp16.safetensors" in fetched(get(variant="fp16"))
    assert [one for one in fetched(get(subfolder="pieces")) if one.startswith("pieces/")] == [
        "pieces/config.json",
        "pieces/model.safetensors",
    ]


def test_a_pickle_is_taken_where_it_is_allowed(hub, get) -> None:
    with pytest.raises(UnsupportedModel, match=r"^model\.ipAdapters\[style\]\.imageEncoder: .* a pickle that may run"):
        get(subfolder="old")
    assert "old/pytorch_model.bin" in fetched(get(subfolder="old", allow_pickle=True))
    hub.forget()
    with pytest.raises(
        UnsupportedModel, match=r"^model\.ipAdapters\[style\]\.file: sdxl_models/ip-adapter_sdxl\.bin is"
    ):
        get(DENOISE, file="sdxl_models/ip-adapter_sdxl.bin")
    assert not hub.asked(), "it is refused before it comes"
    assert "sdxl_models/ip-adapter_sdxl.bin" in fetched(
        get(DENOISE, file="sdxl_models/ip-adapter_sdxl.bin", allow_pickle=True)
    )


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"id": "maker/nothing"}, r"^model\.ipAdapters\[style\]\.id: .* maker/nothing \(401\)"),
        (
            {"encoder_id": "maker/nothing"},
            r"^model\.ipAdapters\[style\]\.imageEncoder\.id: .* maker/nothing \(401\)",
        ),
        (
            {"encoder_id": "maker/looks"},
            r"^model\.ipAdapters\[style\]\.imageEncoder: repository maker/looks has no config\.json",
        ),
        (
            {"revision": "v9"},
            r"^model\.ipAdapters\[style\]\.revision: repository maker/looks of the hub has no .* 'v9'",
        ),
        ({"file": "no.bin", "allow_pickle": True}, r"\[style\]\.file: repository maker/looks has no no\.bin"),
        ({"subfolder": "no"}, r"\[style\]\.imageEncoder: repository maker/looks has no no/config\.json"),
        ({"subfolder": "none"}, r"\[style\]\.imageEncoder: repository maker/looks lacks weights in none"),
        ({"subfolder": "half"}, r"\[style\]\.imageEncoder: repository maker/looks lacks weights in half"),
        ({"offline": True}, r"^model\.ipAdapters\[style\]: .* lacks maker/looks, and nothing may be downloaded"),
    ],
    ids=[
        "no such repository",
        "no such repository of the encoder",
        "no encoder in its root",
        "no such revision",
        "no such file",
        "no such encoder",
        "no weights",
        "a piece too few",
        "nothing may be downloaded",
    ],
)
def test_why_there_is_none_is_said_by_field(get, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(DownloadFailed, match=said):
        get(**wrong)


def test_that_its_file_is_missing_is_known_before_the_encoder_comes(hub, get) -> None:
    with pytest.raises(DownloadFailed, match=r"has no none\.safetensors"):
        get(file="none.safetensors", subfolder=OWN)
    assert hub.asked("*model.safetensors") == []


def test_one_in_a_folder_has_to_be_mounted(tmp_path: Path) -> None:
    one = NamedIPAdapter(name="style", id=str(tmp_path), file=FILE, scale=2.0)
    with pytest.raises(
        UnsupportedModel, match=r"^model\.ipAdapters\[style\]\.file: there is no .*sdxl\.safetensors: mount"
    ):
        at_path(one, stages=DENOISE)
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_bytes(b"")
    assert at_path(one, stages=DENOISE) == IPAdapterFiles("style", tmp_path / FILE, None, 2.0)
    assert at_path(one, stages=DECODE) == IPAdapterFiles("style", None, None, 2.0)
    with pytest.raises(
        UnsupportedModel, match=r"^model\.ipAdapters\[style\]\.imageEncoder: there is no .*/config\.json"
    ):
        at_path(one, stages=ENCODE)
    (tmp_path / OWN).mkdir()
    (tmp_path / OWN / "config.json").write_text("{}")
    assert at_path(one, stages=frozenset(Stage)) == IPAdapterFiles("style", tmp_path / FILE, tmp_path / OWN, 2.0)
