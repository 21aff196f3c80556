"""Whoever comes second downloads nothing; a cache that nobody may write to is enough to start from."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from diffusion_worker.model import DownloadFailed
from diffusionpipeline.words import STAGES, Stage
from testbed.waiting import until

DEADLINE = 120.0
VAE = "vae/diffusion_pytorch_model.safetensors"

Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts a decoder's download into a cache that all of this test's share."""
    started: list[subprocess.Popen[str]] = []
    # A file that is held here is no connection that broke.
    own = {**environment, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DOWNLOAD_TIMEOUT": "600"}

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, str(Path(__file__).with_name("one_worker.py")), "decoder"]
        process = subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def last_line(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=DEADLINE)[0].splitlines()[-1]


def test_two_that_start_at_once_download_once(hub, start):
    with hub.hold(VAE):
        first = start()
        until(hub.reached.is_set, DEADLINE, "the first is in the middle of the file")
        second = start()
        until(lambda: len(hub.asked(f"/*/resolve/*/{VAE}", "HEAD")) == 2, DEADLINE, "the second comes to the file")
    paths = {last_line(process) for process in (first, second)}

    assert [first.returncode, second.returncode] == [0, 0]
    assert len(paths) == 1
    assert len(hub.asked(f"/storage/*/{VAE}", "GET")) == 1


def test_who_dies_in_the_middle_of_a_file_holds_up_nobody(hub, start, published):
    with hub.hold(VAE):
        first = start()
        until(hub.reached.is_set, DEADLINE, "the first is in the middle of the file")
        second = start()
        until(lambda: len(hub.asked(f"/*/resolve/*/{VAE}", "HEAD")) == 2, DEADLINE, "the second comes to the file")
        first.kill()
        until(lambda: len(hub.asked(f"/storage/*/{VAE}", "GET")) == 2, DEADLINE, "the second begins it")
    path = Path(last_line(second))

    assert second.returncode == 0
    assert (path / VAE).read_bytes() == (published / VAE).read_bytes()


def test_a_second_worker_downloads_no_byte_and_asks_once_what_the_branch_is(hub, fetched, report):
    first = fetched(Stage.ENCODE)
    report(f"the first: {hub.bytes_sent():,} bytes in {len(hub.asked())} requests")
    hub.forget()
    told: list[tuple[int, int]] = []

    assert fetched(Stage.ENCODE, told=lambda done, total: told.append((done, total))) == first

    assert hub.bytes_sent() == 0
    assert len(hub.asked()) == 1
    assert {done == total > 0 for done, total in told} == {True}
    report(f"the second: {hub.bytes_sent()} bytes in {len(hub.asked())} request")


def test_of_a_commit_that_is_there_the_hub_hears_nothing(hub, fetched):
    commit = fetched(Stage.ENCODE).name
    hub.forget()

    fetched(Stage.ENCODE, share={"revision": commit})

    assert hub.asked() == []


def test_another_role_downloads_what_it_lacks_alone(hub, fetched):
    fetched(Stage.ENCODE)
    hub.forget()

    fetched(Stage.DECODE)
    assert hub.bytes_sent() == 0, "the encoder has the VAE as well"
    fetched(Stage.DENOISE)
    assert {name.split("/")[0] for name in hub.files_sent()} == {"transformer"}


def test_a_branch_that_moved_is_fetched_and_what_did_not_change_is_not(hub, fetched, published, tmp_path):
    before = fetched(Stage.ENCODE)
    moved = Path(shutil.copytree(published, tmp_path / "moved"))
    (moved / "scheduler" / "scheduler_config.json").write_text("{}")
    hub.add("maker/sd3", moved)
    hub.forget()

    after = fetched(Stage.ENCODE)

    assert after.name != before.name
    assert hub.files_sent() == {"scheduler/scheduler_config.json"}


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Makes the cache one that is only read: by its files' rights, and, as root minds none, by watching it."""
    before: dict[Path, int] = {}

    def entries() -> dict[Path, int]:
        return {path: path.lstat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}

    def freeze() -> None:
        before.update(entries())
        for path in (tmp_path / "cache", *before):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & ~0o222)

    yield freeze
    assert entries() == before
    for path in (tmp_path / "cache", *before):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)


@pytest.mark.parametrize("stage", STAGES)
def test_a_cache_that_is_only_read_is_enough_without_any_hub(hub, fetched, read_only, stage):
    filled = fetched(*STAGES)
    read_only()
    hub.stop()

    assert fetched(stage, offline=True) == filled


def test_a_cache_that_somebody_filled_with_the_hubs_own_tools_is_enough(hub, fetched, tmp_path):
    filled = fetched(*STAGES)
    # Versions of the library before 2 keep no list of what a commit has.
    shutil.rmtree(filled.parent.parent / "trees")
    hub.stop()

    copied = tmp_path / "copied"
    shutil.copytree(tmp_path / "cache", copied, symlinks=True)
    for stage in STAGES:
        assert fetched(stage, offline=True, cache=copied).name == filled.name


def test_what_a_cache_lacks_of_a_role_that_may_download_nothing_is_named(hub, fetched):
    fetched(Stage.DECODE)
    hub.forget()

    with pytest.raises(
        DownloadFailed, match=r"model\.cache: .* lacks text_encoder/model\.safetensors .*downloadPolicy"
    ):
        fetched(Stage.ENCODE, offline=True)
    with pytest.raises(DownloadFailed, match=r"model\.cache: .* lacks the index of maker/sd3@other"):
        fetched(Stage.DECODE, offline=True, share={"revision": "other"})
    assert hub.asked() == []


def test_a_hub_that_is_away_keeps_nobody_from_starting_with_what_is_there(hub, fetched, hours):
    filled = fetched(Stage.DENOISE)
    hub.stop()

    assert fetched(Stage.DENOISE) == filled
    assert hours.pauses == []


def test_a_token_that_was_taken_back_keeps_nobody_from_starting_with_what_is_there(hub, fetched, published):
    filled = fetched(Stage.DENOISE)
    hub.add("maker/sd3", published, token="another")

    assert fetched(Stage.DENOISE) == filled
