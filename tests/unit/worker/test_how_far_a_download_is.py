"""A download's progress: exact where it is asked for, and in the log as often as somebody reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from diffusion_worker import downloading as module
from diffusion_worker.downloading import LOG_SECONDS, Downloading
from diffusion_worker.metrics import Metrics
from diffusionpipeline.words import Stage, portion

SIZE = 8_375_186_227


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    # A logger that was used before is not captured.
    monkeypatch.setattr(module, "log", structlog.get_logger())
    return Clock()


@pytest.fixture
def download(clock: Clock) -> Downloading:
    return Downloading(Metrics("denoiser", [Stage.DENOISE]), clock)


def told(run: Callable[[], None]) -> list[str]:
    with capture_logs() as events:
        run()
    return [event["progress"] for event in events if event["event"] == "downloading"]


def test_a_portion_is_told_in_percents_and_in_the_unit_of_the_whole() -> None:
    assert portion(3_435_973_837, SIZE) == "41 %, 3.2 of 7.8 GiB"
    assert portion(5 << 20, 10 << 20) == "50 %, 5.0 of 10.0 MiB"
    assert portion(SIZE - 1, SIZE).startswith("99 %")
    assert portion(0, 0) == "0 %, 0.0 of 0.0 MiB"


def test_nothing_is_told_before_it_is_known_how_much_there_is_and_nothing_once_all_is_there(
    download: Downloading,
) -> None:
    assert download.progress == ""
    download.told(SIZE // 2, SIZE)
    assert download.progress == "49 %, 3.9 of 7.8 GiB"
    assert download.bytes == (SIZE // 2, SIZE)
    download.told(SIZE, SIZE)
    assert download.progress == ""


def test_a_log_has_a_line_for_each_tenth_however_small_the_pieces(download: Downloading) -> None:
    def run() -> None:
        for step in range(1001):
            download.told(SIZE * step // 1000, SIZE)

    lines = told(run)
    assert 9 <= len(lines) <= 11
    assert lines[-1] == "100 %, 7.8 of 7.8 GiB"


def test_a_slow_download_has_a_line_a_minute(download: Downloading, clock: Clock) -> None:
    def run() -> None:
        for second in range(int(3 * LOG_SECONDS)):
            clock.now = float(second)
            download.told(second, SIZE)

    assert len(told(run)) == 2


def test_of_what_is_there_already_there_is_no_line(download: Downloading) -> None:
    assert told(lambda: download.told(SIZE, SIZE)) == []


def test_metrics_follow(clock: Clock) -> None:
    metrics = Metrics("denoiser", [Stage.DENOISE])

    def value(name: str) -> Any:
        return metrics.registry.get_sample_value(f"diffusion_worker_{name}", {"role": "denoiser"})

    names = ("download_bytes", "download_size_bytes", "download_pauses_total")
    assert [value(name) for name in names] == [0, 0, 0]
    Downloading(metrics, clock).told(3, 8)
    metrics.download_paused()
    assert [value(name) for name in names] == [3, 8, 1]
