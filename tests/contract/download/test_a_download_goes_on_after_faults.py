"""A hub that refuses, breaks off or is away for a while costs time alone; one that stays so is told of in words."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from diffusion_worker.model import DownloadFailed
from diffusion_worker.model import download as downloads
from diffusionpipeline.words import Stage

CHUNK = 4096
"""What the library takes from a connection at once, and may lose: its 10 MB, to the scale of these files."""
CUT = 40_000
KEPT = CUT // CHUNK * CHUNK
VAE = "/storage/maker/sd3/vae/diffusion_pytorch_model.safetensors"


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", CHUNK)


def weights(folder: Path) -> Path:
    return folder / "vae" / "diffusion_pytorch_model.safetensors"


def same_as_published(path: Path, published: Path) -> bool:
    return weights(path).read_bytes() == weights(published).read_bytes()


def test_a_connection_that_is_cut_in_the_middle_of_a_file_is_gone_on_with_from_there(hub, fetched, published, hours):
    hub.cut(VAE, after=CUT)
    told: list[int] = []

    path = fetched(Stage.DECODE, told=lambda done, total: told.append(done))

    assert same_as_published(path, published)
    first, second = hub.asked(VAE, "GET")
    assert (first.range, second.range) == ("", f"bytes={KEPT}-")
    assert hub.bytes_sent(pattern="vae/*.safetensors") == weights(path).stat().st_size + CUT - KEPT
    assert told == sorted(told)
    assert hours.pauses == []


def test_a_refusal_in_the_middle_of_a_file_loses_nothing_of_it(hub, fetched, published, hours):
    hub.cut(VAE, after=CUT)
    hub.cut(VAE, after=0)
    hub.refuse(VAE, 503, times=2)

    path = fetched(Stage.DECODE)

    assert same_as_published(path, published)
    assert [one.status for one in hub.asked(VAE, "GET")] == [200, 206, 503, 503, 206]
    assert hub.bytes_sent(pattern="vae/*.safetensors") == weights(path).stat().st_size + CUT - KEPT
    assert len(hours.pauses) == 2


@pytest.mark.parametrize("path", ["/api/models/*", "/maker/sd3/resolve/*", "/storage/*"])
def test_a_hub_that_is_asked_too_often_is_left_alone_for_as_long_as_it_asks(hub, fetched, published, hours, path):
    hub.refuse(path, 429, times=2, retry_after="7")

    assert same_as_published(fetched(Stage.DECODE), published)
    assert len(hours.pauses) == 2
    assert all(7 < pause <= 9 for pause in hours.pauses)


def test_the_hubs_own_way_to_say_when_its_limit_is_over_counts_as_well(hub, fetched, hours):
    hub.refuse("/api/models/*", 429, RateLimit='"api";r=0;t=55')

    fetched(Stage.DECODE)

    assert [55 < pause <= 56 for pause in hours.pauses] == [True]


def test_pauses_grow_and_differ_and_end_when_nothing_came_for_as_long_as_is_borne(hub, fetched, hours):
    hub.refuse("/api/models/*", 503, times=1000)

    with pytest.raises(DownloadFailed, match=r"model\.id: the hub fails: 127\.0\.0\.1 answers 503"):
        fetched(Stage.DECODE)

    assert hours.now <= 300
    bounds = [min(60, 2**attempt) for attempt in range(len(hours.pauses))]
    assert all(bound / 2 <= pause <= bound for pause, bound in zip(hours.pauses, bounds, strict=True))
    assert len({pause / bound for pause, bound in zip(hours.pauses, bounds, strict=True)}) == len(bounds)
    assert len(hub.asked("/api/models/*")) == len(bounds) + 1


def test_a_hub_that_asks_for_longer_than_is_borne_is_told_of_at_once(hub, fetched, hours):
    hub.refuse("/api/models/*", 429, retry_after="3600")

    with pytest.raises(DownloadFailed, match=r"model\.cache: .* too often .*3600 s.*model\.tokenSecretRef"):
        fetched(Stage.DECODE)
    assert hours.pauses == []


def test_a_hub_that_is_not_there_is_waited_for_and_then_told_of(hub, fetched, hours):
    hub.stop()

    with pytest.raises(DownloadFailed, match=r"model\.id: there is no way to the hub: .*networkPolicy\.egress"):
        fetched(Stage.DECODE)
    assert len(hours.pauses) > 5


def test_a_store_that_breaks_off_whatever_is_tried_is_told_of(hub, fetched, hours, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.cut(VAE, after=0, times=1000)

    with pytest.raises(DownloadFailed, match=r"model\.id: the hub at .* breaks off again and again"):
        fetched(Stage.DECODE)
    assert hours.now <= 300


def test_files_that_are_whole_are_not_fetched_again_by_the_next_attempt(hub, fetched):
    hub.refuse("/storage/maker/sd3/text_encoder_2/*", 404)

    with pytest.raises(DownloadFailed):
        fetched(Stage.ENCODE)
    had = {name for name in hub.files_sent() if name.endswith(".safetensors")}
    hub.forget()
    fetched(Stage.ENCODE)

    assert had
    assert not had & hub.files_sent()


def test_a_token_goes_to_the_hub_and_not_to_where_the_files_lie_and_is_told_nobody(
    hub, fetched, published, monkeypatch, capfd
):
    hub.add("maker/sd3", published, token="hf_secret")
    hub.cut(VAE, after=1000)
    hub.refuse("/api/models/*", 503)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")

    fetched(Stage.DECODE)

    assert all(one.authorized for one in hub.asked("/api/*"))
    assert [one.authorized for one in hub.asked("/storage/*")] == [False, False]
    said = "".join(capfd.readouterr())
    assert "download_pauses" in said
    assert "hf_secret" not in said and "signature" not in said


def test_what_killed_workers_left_of_files_is_cleared_away_and_what_others_write_is_not(hub, fetched, tmp_path):
    blobs = tmp_path / "cache" / "models--maker--sd3" / "blobs"
    blobs.mkdir(parents=True)
    old, young = blobs / "a.1.incomplete", blobs / "b.2.incomplete"
    for piece in (old, young):
        piece.write_bytes(bytes(10))
    long_ago = time.time() - downloads.LEFT_SECONDS - 60
    os.utime(old, (long_ago, long_ago))

    fetched(Stage.DECODE)

    assert not old.exists()
    assert young.exists()


def test_a_full_disk_is_not_waited_for(hub, fetched, hours, monkeypatch):
    def full(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)

    with pytest.raises(OSError, match=r"model\.cache: .*no space left on device"):
        fetched(Stage.DECODE)
    assert hours.pauses == []


def test_a_cache_that_can_not_be_written_is_named(hub, fetched, monkeypatch):
    def denied(*_args: object, **_options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", denied)

    with pytest.raises(DownloadFailed, match=r"model\.cache: .* can't hold the model: .*Read-only"):
        fetched(Stage.DECODE)
