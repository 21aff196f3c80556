"""A folder of adapters that hangs or fails, as one of a network may, holds up neither heartbeats nor what computes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffusion_worker.model import AdapterFiles, UnsupportedModel, adapter_folder, load_model, resolve_model
from diffusion_worker.model.adapter_folder import AdapterFolder
from diffusionpipeline.v1 import stage_pb2
from diffusionpipeline.words import Stage

from .conftest import DEADLINE, Start
from .scripted_router import ENCODE, ScriptedRouter
from .test_the_router_is_told_of_adapters import told


class Network:
    """What lies between a worker and its folder."""

    def __init__(self) -> None:
        self.up = threading.Event()
        self.up.set()
        self.error: OSError | None = None
        self.readers = self.most = 0
        self._read = adapter_folder._entries

    def read(self, path: Path) -> Any:
        self.readers += 1
        self.most = max(self.most, self.readers)
        try:
            assert self.up.wait(10 * DEADLINE)
            if self.error is not None:
                raise self.error
            return self._read(path)
        finally:
            self.readers -= 1


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    network = Network()
    monkeypatch.setattr(adapter_folder, "_entries", network.read)
    monkeypatch.setattr(adapter_folder, "LOOK_SECONDS", 0.2)
    yield network
    network.up.set()


def put(folder: Path, name: str) -> None:
    (folder / f"{name}.safetensors").touch()


async def test_a_worker_starts_beats_and_computes_while_it_hangs_and_offers_what_is_there_when_it_is_back(
    network: Network, start: Start, router: ScriptedRouter, tmp_path: Path
) -> None:
    put(tmp_path, "early")
    network.up.clear()
    model: Any = await asyncio.to_thread(
        load_model,
        path=resolve_model("Bundled", "digits", ""),
        stages=frozenset(Stage),
        dtype="float32",
        device="cpu",
        adapters=AdapterFiles(folder=tmp_path),
    )
    stream = await (await start(model=model)).stream()
    assert list(stream.register.adapters.offered) == []
    beats = len(stream.said("heartbeat"))
    await stream.execute(ENCODE, "unknown", adapters=[stage_pb2.Adapter(name="early")])
    assert await stream.failed("unknown") == "MODEL_ERROR", "another try may find it"
    words = (await stream.failure("unknown")).message
    assert "'early' was not seen in model.adapterSource before, and that folder does not answer now" in words
    await stream.execute(ENCODE, "without")
    await stream.done("without")
    await stream.until(lambda: len(stream.said("heartbeat")) > beats + 1, "heartbeats")

    network.up.set()
    await stream.until(lambda: "early" in told(stream), "word of what is in the folder")
    network.up.clear()
    put(tmp_path, "late")
    await stream.execute(ENCODE, "without-again")
    await stream.done("without-again")
    assert "early" in told(stream)
    network.up.set()
    await stream.until(lambda: "late" in told(stream), "word of what was put there meanwhile")
    assert network.most == 1, "one thread waits for it, however often it is asked"


def test_what_was_seen_in_it_counts_while_it_can_not_be_read_and_no_more_when_it_is_gone(
    network: Network, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    put(tmp_path / "there", "ink")
    folder = AdapterFolder(tmp_path / "there")
    ink = {"ink": tmp_path / "there" / "ink.safetensors"}
    assert folder.look() == (ink, True)
    network.error = OSError(5, "Input/output error")
    assert folder.look() == (ink, False)
    network.error = None
    (tmp_path / "there").rename(tmp_path / "elsewhere")
    assert folder.look() == ({}, True)
    with pytest.raises(UnsupportedModel, match=r"model.adapterSource: there is no folder .*there: mount it into the e"):
        folder.check()


def test_who_asks_while_it_is_being_read_sees_what_was_put_there_before_that(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = AdapterFolder(tmp_path)
    read = network._read

    def read_and_hang(path: Path) -> Any:
        found = read(path)
        network.up.clear()
        put(tmp_path, "ink")
        assert network.up.wait(10 * DEADLINE)
        return found

    network._read = read_and_hang
    assert folder.look() == ({}, False)
    network._read = read
    wait = threading.Event.wait

    def wait_until_it_is_back(reading: threading.Event, seconds: float) -> bool:
        network.up.set()
        return wait(reading, seconds)

    monkeypatch.setattr(adapter_folder._Reading, "wait", wait_until_it_is_back)
    assert folder.look()[0].keys() == {"ink"}
