"""Of a model that is published several times over, a role fetches what it loads: once, in one variant."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import pytest

from diffusion_worker.model import UnsupportedModel, identify
from diffusion_worker.model.weightfiles import WEIGHT_SUFFIXES
from diffusionpipeline.words import STAGES, Stage
from testbed.zoo.cache import ensure
from testbed.zoo.catalogue import FAMILIES

OWN = {
    Stage.ENCODE: {"text_encoder", "text_encoder_2", "text_encoder_3", "vae"},
    Stage.DENOISE: {"transformer"},
    Stage.DECODE: {"vae"},
}
EVERYTHING = ("*.json", "*.txt", "*.model", "*/*.safetensors")
"""What workers downloaded before they knew roles."""


def weights(names: set[str]) -> set[str]:
    return {name for name in names if name.endswith(WEIGHT_SUFFIXES)}


@pytest.mark.parametrize("stage", STAGES)
def test_a_role_downloads_the_weights_of_its_own_components_in_one_variant(hub, fetched, published, stage):
    path = fetched(stage)

    sent = weights(hub.files_sent(stage.role))
    assert {name.split("/")[0] for name in sent} == OWN[stage]
    assert all(".fp16" not in name and name.endswith(".safetensors") for name in sent)
    assert {name.relative_to(path).as_posix() for name in path.rglob("*.safetensors")} == sent
    loaded = sum((published / name).stat().st_size for name in sent)
    assert hub.bytes_sent(stage.role, "*.safetensors") == loaded


def test_every_role_has_all_configs(hub, fetched, published):
    path = fetched(Stage.DECODE)

    components = json.loads((published / "model_index.json").read_text())
    for name, value in components.items():
        if isinstance(value, list) and value[0] is not None:
            configs = {file.name for file in (published / name).glob("*.json") if ".index" not in file.name}
            assert configs <= {file.name for file in (path / name).iterdir()}, name


def test_bytes_by_role_before_and_after(hub, fetched, tmp_path, report):
    before = after = 0
    for stage in STAGES:
        options = {"cache_dir": tmp_path / stage, "endpoint": hub.endpoint, "user_agent": {"role": "whole"}}
        huggingface_hub.snapshot_download("maker/sd3", allow_patterns=list(EVERYTHING), **options)
        whole = hub.bytes_sent("whole")
        fetched(stage, cache=tmp_path / f"own-{stage}")
        own = hub.bytes_sent(stage.role)
        report(f"{stage.role}: {own:,} bytes of {whole:,} ({100 * own / whole:.0f} %)")
        assert own < whole / 2
        before, after = before + whole, after + own
        hub.forget()
        fetched(stage, cache=tmp_path / f"half-{stage}", share={"variant": "fp16"})
        report(f"{stage.role}, fp16: {hub.bytes_sent():,} bytes")
        assert hub.bytes_sent() < own
        hub.forget()
    report(f"all three: {after:,} bytes of {before:,} ({100 * after / before:.0f} %)")
    assert after < before / 4


def test_a_colocated_worker_downloads_what_any_of_its_roles_loads_once(hub, fetched):
    fetched(*STAGES)

    who = "encoder+denoiser+decoder"
    assert {name.split("/")[0] for name in weights(hub.files_sent(who))} == OWN[Stage.ENCODE] | OWN[Stage.DENOISE]
    assert len(hub.asked("/storage/*/vae/*", "GET")) == 1


def test_the_variant_that_is_asked_for_is_the_one_that_is_downloaded(hub, fetched):
    fetched(Stage.ENCODE, share={"variant": "fp16"})

    sent = weights(hub.files_sent("encoder"))
    assert sent and all(".fp16" in name for name in sent)
    assert "text_encoder_3/model.safetensors.index.fp16.json" in hub.files_sent("encoder")


def test_a_component_without_that_variant_comes_as_it_is(hub, fetched, published, tmp_path):
    partly = shutil.copytree(published, tmp_path / "partly")
    (partly / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    hub.add("maker/sd3", partly)

    fetched(Stage.ENCODE, share={"variant": "fp16"})

    sent = weights(hub.files_sent("encoder"))
    assert {name for name in sent if ".fp16" not in name} == {"vae/diffusion_pytorch_model.safetensors"}


def test_pickles_are_refused_before_any_is_downloaded_and_come_where_they_are_allowed(
    hub, fetched, published, tmp_path
):
    pickled = shutil.copytree(published, tmp_path / "pickled")
    for file in (pickled / "vae").glob("*.safetensors"):
        file.unlink()
    hub.add("maker/sd3", pickled)

    with pytest.raises(UnsupportedModel, match=r"vae.*allowPickle"):
        fetched(Stage.DECODE)
    assert not weights(hub.files_sent())

    fetched(Stage.DECODE, share={"allow_pickle": True})
    assert weights(hub.files_sent()) == {"vae/diffusion_pytorch_model.bin"}


def test_where_there_are_safetensors_allowed_pickles_stay_where_they_are(hub, fetched):
    fetched(Stage.ENCODE, share={"allow_pickle": True})

    assert not [name for name in hub.files_sent() if name.endswith(".bin")]


def test_a_repository_that_lacks_a_piece_of_a_component_is_refused_by_its_name(hub, fetched, published, tmp_path):
    torn = shutil.copytree(published, tmp_path / "torn")
    (torn / "transformer" / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    hub.add("maker/sd3", torn)

    with pytest.raises(UnsupportedModel, match="transformer lacks piece 2 of 2"):
        fetched(Stage.DENOISE)
    # Whoever does not load it does not mind.
    fetched(Stage.DECODE)


def test_a_repository_that_is_no_pipeline_is_refused(hub, fetched, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    hub.add("maker/other", tmp_path / "other")

    with pytest.raises(UnsupportedModel, match=r"maker/other .*model_index\.json"):
        fetched(Stage.DECODE, share={"id": "maker/other"})


def test_roles_that_hold_other_files_of_a_commit_have_one_identity_and_another_commit_has_another(
    hub, fetched, published, tmp_path
):
    paths = [fetched(stage, cache=tmp_path / stage) for stage in STAGES]
    identities = {identify(path, commit=path.name) for path in paths}
    assert len(identities) == 1

    changed = shutil.copytree(published, tmp_path / "changed")
    weights_file = changed / "transformer" / "diffusion_pytorch_model-00001-of-00002.safetensors"
    data = bytearray(weights_file.read_bytes())
    data[-1] ^= 1
    weights_file.write_bytes(data)
    hub.add("maker/sd3", changed)
    later = fetched(Stage.DECODE)

    assert identify(later, commit=later.name) not in identities


@pytest.mark.parametrize("family", ["flux2-klein", "ltx"])
def test_statistics_of_an_autoencoder_come_to_every_role(hub, fetched, family):
    """Pipelines of these families scale latents by buffers of the VAE, which only its weight file has."""
    hub.add("maker/other", ensure(FAMILIES[family].checkpoint))

    fetched(Stage.DENOISE, share={"id": "maker/other"})

    assert {name.split("/")[0] for name in weights(hub.files_sent("denoiser"))} == {"transformer", "vae"}
