"""`dpipe up` in one place, `dpipe generate` in another, as a user has them: real processes, Mooncake over TCP."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from testbed.processes import is_alive
from testbed.waiting import until

ROOT = Path(__file__).parents[3]
COMMAND_SECONDS = 60.0
# Workers load torch and diffusers first, which takes minutes on a busy machine.
pytestmark = pytest.mark.timeout(600)
BUNDLED = ROOT / "worker/diffusion_worker/model/bundled/digits"
DPIPE = (sys.executable, "-c", "from dpipe.app import main; main()")


@dataclass
class Up:
    """A running `dpipe up`, found by commands with this environment and by no others."""

    process: subprocess.Popen[str]
    data: Path
    environment: dict[str, str]
    lines: list[str] = field(default_factory=list)

    def dpipe(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*DPIPE, *arguments],
            env=self.environment,
            cwd=self.data,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )

    def read_until(self, text: str) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return
        raise AssertionError(f"ended without {text!r}: {''.join(self.lines)}")


def start(folder: Path, *options: str, file: Path = ROOT / "examples/digits.yaml") -> Up:
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "XDG_STATE_HOME": str(folder)}
    process = subprocess.Popen(
        [*DPIPE, "up", "-f", str(file), "--port", "0", *options],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Up(process, folder / "dpipe" / "digits", environment)


def stop(up: Up, number: int) -> None:
    if up.process.poll() is None:
        up.process.send_signal(number)
    up.process.wait(COMMAND_SECONDS)
    assert up.process.stderr is not None
    up.process.stderr.close()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = start(tmp_path_factory.mktemp("up"))
    try:
        running.read_until("digits is ready: http://127.0.0.1:")
        yield running
    finally:
        stop(running, signal.SIGTERM)


def pids(up: Up) -> list[int]:
    return [int(found) for line in up.lines for found in re.findall(r"pid (\d+)", line)]


def test_generate_writes_a_picture_and_prints_seed_and_times(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "out" / "seven.png"
    done = up.dpipe("generate", "a red seven", "-o", str(file), "--seed", "5")
    assert done.returncode == 0, done.stderr
    assert Image.open(file).size == (64, 64)
    assert f"{file}  seed 5" in done.stdout
    stages = [line.split()[0] for line in done.stdout.splitlines() if re.search(r"^\w+ +\d+\.\d", line)]
    assert stages == ["queue", "encode", "transfer", "denoise", "transfer", "decode", "other"]
    assert "8 steps" in done.stdout


def test_json_has_the_whole_job_and_the_same_seed_makes_the_same_bytes(up: Up, tmp_path: Path) -> None:
    first, second = tmp_path / "1.webp", tmp_path / "2.webp"
    jobs = []
    for file in (first, second):
        done = up.dpipe("generate", "a blue two", "-o", str(file), "--seed", "9", "--steps", "4", "--json")
        assert done.returncode == 0, done.stderr
        jobs += json.loads(done.stdout)
    assert first.read_bytes() == second.read_bytes()
    assert Image.open(first).format == "WEBP"
    assert [(job["status"], job["steps"], job["files"]) for job in jobs] == [
        ("completed", 4, [str(first)]),
        ("completed", 4, [str(second)]),
    ]


def test_several_pictures_are_numbered_and_have_seeds_one_apart(up: Up, tmp_path: Path) -> None:
    done = up.dpipe("generate", "a yellow four", "-o", str(tmp_path / "four.png"), "-n", "3", "--seed", "20")
    assert done.returncode == 0, done.stderr
    for number in (1, 2, 3):
        assert f"{tmp_path / f'four-{number}.png'}  seed {19 + number}" in done.stdout
    assert len({(tmp_path / f"four-{number}.png").read_bytes() for number in (1, 2, 3)}) == 3


def test_a_picture_can_start_from_another(up: Up, tmp_path: Path) -> None:
    source, target = tmp_path / "source.png", tmp_path / "target.png"
    with source.open("wb") as file:
        Image.new("RGB", (64, 64), "white").save(file, "PNG")
    done = up.dpipe("generate", "a red 3", "--image", str(source), "--strength", "0.7", "-o", str(target))
    assert done.returncode == 0, done.stderr
    assert Image.open(BytesIO(target.read_bytes())).size == (64, 64)


def test_what_the_router_refuses_is_told_in_its_words(up: Up, tmp_path: Path) -> None:
    done = up.dpipe("generate", "a red seven", "-o", str(tmp_path / "x.png"), "--size", "large")
    assert done.returncode == 1
    assert "the router refused (400): Field 'size' must be auto or WxH in pixels" in done.stderr
    video = up.dpipe("generate", "a red seven", "-o", str(tmp_path / "x.mp4"), "--video")
    assert video.returncode == 1
    assert "digits makes pictures, not videos" in video.stderr


def test_peers_and_jobs_are_listed(up: Up, tmp_path: Path) -> None:
    assert up.dpipe("generate", "a green one", "-o", str(tmp_path / "one.png")).returncode == 0
    peers = up.dpipe("peers").stdout
    for role in ("encoder", "denoiser", "decoder"):
        assert re.search(
            rf"digits-{role}-0 +{role} +ready +[0-9a-f]{{8}} +mooncake-tcp +[0-9.]+ [GM]B/s, +[0-9.]+ ms", peers
        )
    assert {peer["pod_name"] for peer in json.loads(up.dpipe("peers", "--json").stdout)} == {
        "digits-encoder-0",
        "digits-denoiser-0",
        "digits-decoder-0",
    }
    newest = up.dpipe("jobs", "--limit", "1").stdout
    assert re.search(r"job_\w+ +completed .* a green one +8 of 8", newest)


def test_a_second_up_on_the_same_folder_is_refused(up: Up) -> None:
    second = start(up.data.parents[1])
    second.process.wait(COMMAND_SECONDS)
    assert second.process.stderr is not None
    assert "belongs to a pipeline that is running" in second.process.stderr.read()
    second.process.stderr.close()
    assert second.process.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_and_the_status_is_0(tmp_path: Path, number: int) -> None:
    running = start(tmp_path)
    try:
        # While the models still load: a signal must find its way then, too.
        until(lambda: len(list(running.data.glob("digits-*"))) == 4, COMMAND_SECONDS, "there are four pods")
        running.read_until("digits-decoder-0: starting")
    finally:
        stop(running, number)
    assert running.process.returncode == 0
    assert len(pids(running)) >= 4
    until(lambda: not any(is_alive(pid) for pid in pids(running)), COMMAND_SECONDS, "all processes have ended")
    assert not list((tmp_path / "dpipe").glob("*.json"))


def test_why_a_pod_ends_stands_on_the_console(tmp_path: Path) -> None:
    model = Path(shutil.copytree(BUNDLED, tmp_path / "model"))
    weights = next((model / "vae").glob("*.safetensors"))
    os.truncate(weights, 1000)
    resource = tmp_path / "cut-off.yaml"
    resource.write_text(
        "apiVersion: diffusion-operator.dev/v1alpha1\nkind: DiffusionPipeline\nmetadata: {name: digits}\n"
        f"spec:\n  model: {{source: Path, id: {model}}}\n"
        "  roles: {encoder: {replicas: 0}, denoiser: {replicas: 0}}\n"
    )
    running = start(tmp_path, file=resource)
    try:
        running.read_until(f"digits-decoder-0: back-off, last exit code 3: {weights}: was cut off: 1000 of at least")
    finally:
        stop(running, signal.SIGTERM)
