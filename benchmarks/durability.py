"""What it costs to flush artifacts: files a second into a folder that is flushed, beside one that is left to the
kernel, alone and with many in flight.

    python benchmarks/durability.py [--files N] [--rounds N] [--folder FOLDER]

As the router puts them: one file a job, each in a folder of its own. Rounds alternate.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from diffusion_router.store import ArtifactStore

IN_FLIGHT = (1, 4, 16)
SIZES = {"6 KB": 6 << 10, "1.5 MB": 3 << 19}


async def files_a_second(folder: Path, size: int, files: int, in_flight: int, *, flushed: bool) -> float:
    store = ArtifactStore.open(str(folder), flushed=flushed)
    numbers = iter(range(files))
    data = bytes(size)

    async def client() -> None:
        for number in numbers:
            await store.put(f"jobs/job_{number}/0.png", data)

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(in_flight)))
    return files / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured")
    options = parser.parse_args()
    table = Table("file", "in flight", "relaxed, files/s", "flushed, files/s", "flushed / relaxed")
    for name, size in SIZES.items():
        for in_flight in IN_FLIGHT:
            rates: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(options.rounds):
                for flushed, found in rates.items():
                    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                        measured = files_a_second(Path(folder), size, options.files, in_flight, flushed=flushed)
                        found.append(asyncio.run(measured))
            relaxed, flushed_ = sorted(rates[False]), sorted(rates[True])
            pairs = sorted(a / b for a, b in zip(rates[True], rates[False], strict=True))
            table.add_row(
                name,
                str(in_flight),
                f"{relaxed[0]:.0f} to {relaxed[-1]:.0f}",
                f"{flushed_[0]:.0f} to {flushed_[-1]:.0f}",
                f"{pairs[0]:.2f} to {pairs[-1]:.2f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
