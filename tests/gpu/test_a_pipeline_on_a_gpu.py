"""The bundled model on a GPU, as real processes: router, workers, a transport, and the HTTP interface."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from testbed.examples import resource
from testbed.pipelines import draw, metric, peers, running

ALL_ON_GPU = {f"roles__{role}__device": "cuda" for role in ("encoder", "denoiser", "decoder")}
# The first process on a fresh machine also compiles bytecode and loads CUDA's libraries from the disk.
pytestmark = pytest.mark.timeout(600)


async def pictures(local: Any) -> list[bytes]:
    async with httpx.AsyncClient(base_url=local.http_url) as client:
        answers = await asyncio.gather(*(draw(client, f"a red {digit}", 7) for digit in ("one", "two", "seven")))
    return [answer.picture for answer in answers]


@pytest.fixture(scope="module")
def monolith(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    document = resource("digits-colocated", roles__denoiser__device="cuda")
    with running(document, tmp_path_factory.mktemp("monolith")) as local:
        yield local


@pytest.mark.parametrize(
    ("backend", "example", "changes"),
    [
        ("mooncake", "digits", {}),
        ("tcp", "digits", {"transport__backend": "tcp"}),
        ("shm", "digits-shm", {}),
    ],
)
async def test_pictures_are_byte_identical_to_the_monoliths(
    tmp_path: Path, monolith: Any, backend: str, example: str, changes: dict[str, str]
) -> None:
    document = resource(example, **ALL_ON_GPU, **changes)
    with running(document, tmp_path) as local:
        made = await pictures(local)
        modes = {peer.pool.mode for peer in peers(local).values()}
        pulled = [
            metric(pod.health_url, "diffusion_worker_transfer_bytes_total")
            for pod in local.workers
            if pod.role != "encoder"
        ]
    assert made == await pictures(monolith)
    assert all(mode.startswith(backend) for mode in modes)
    assert all(size > 1000 for size in pulled)


async def test_an_encoder_on_a_cpu_feeds_a_denoiser_on_a_gpu(tmp_path: Path) -> None:
    document = resource("digits", roles__denoiser__device="cuda", roles__decoder__device="cuda")
    with running(document, tmp_path) as local:
        first, again = await pictures(local), await pictures(local)
    assert first == again
    assert len(set(first)) == 3
