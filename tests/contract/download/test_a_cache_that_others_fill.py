"""A worker that may download nothing waits for those who fill its cache ahead of it, each role's share by itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diffusion_worker.model import DownloadFailed
from diffusionpipeline.words import EXIT_DOWNLOAD, Stage
from testbed.waiting import until

DEADLINE = 120.0
VAE = "vae/diffusion_pytorch_model.safetensors"

Pull = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def pull(environment: dict[str, str], tmp_path: Path) -> Iterator[Pull]:
    """Starts what a node's pod of a ModelCache runs for a role."""
    started: list[subprocess.Popen[str]] = []
    own = {"HF_HUB_CACHE": str(tmp_path / "cache"), "DIFFUSION_WORKER_DOWNLOAD_PATIENCE_SECONDS": "0"}

    def start(role: str, **more: str) -> subprocess.Popen[str]:
        model = {"DIFFUSION_WORKER_MODEL_SOURCE": "Hub", "DIFFUSION_WORKER_MODEL_ID": "maker/sd3"}
        process = subprocess.Popen(
            [sys.executable, "-m", "diffusion_worker.prefetch", "--role", role],
            env={**environment, **own, **model, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_worker_waits_until_all_of_its_share_is_there_and_asks_no_hub(hub, fetched, pull):
    with ThreadPoolExecutor() as threads:
        with hub.hold(VAE):
            waiting = threads.submit(fetched, Stage.DECODE, offline=True, wait_seconds=DEADLINE)
            pulling = pull("decoder")
            until(hub.reached.is_set, DEADLINE, "the file is half there")
            assert not waiting.done()
        path = waiting.result(DEADLINE)

    assert pulling.wait(DEADLINE) == 0
    assert (path / VAE).is_file()
    assert len(hub.asked(f"/storage/*/{VAE}", "GET")) == 1


@pytest.mark.thorough
def test_only_what_the_role_loads_is_pulled(hub, pull):
    assert pull("denoiser").wait(DEADLINE) == 0

    assert {name.split("/")[0] for name in hub.files_sent() if name.endswith(".safetensors")} == {"transformer"}


@pytest.mark.thorough
def test_who_waits_in_vain_says_what_is_lacking_and_who_should_have_put_it_there(fetched, pull):
    assert pull("decoder").wait(DEADLINE) == 0

    with pytest.raises(DownloadFailed, match=r"lacks text_encoder/model\.safetensors .*kubectl get modelcaches"):
        fetched(Stage.ENCODE, offline=True, wait_seconds=0.1)


@pytest.mark.thorough
def test_a_hub_that_refuses_is_told_of_as_a_worker_tells_of_it(hub, pull, published):
    hub.add("maker/sd3", published, token="secret")

    refused = pull("decoder")
    said, _ = refused.communicate(timeout=DEADLINE)

    assert refused.returncode == EXIT_DOWNLOAD
    assert "model.tokenSecretRef" in said.splitlines()[-1]


def test_what_holds_a_place_ends_when_it_is_told_to():
    command = [sys.executable, "-m", "diffusion_worker.hold"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holding:
        assert holding.stdout is not None
        assert holding.stdout.readline()
        holding.terminate()
        assert holding.wait(DEADLINE) == 0
