"""`python -m testbed.chaos --minutes 15 --seed 7`: prints a table a mode; fails if a promise was broken."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from testbed.chaos.run import MODES, chaos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="of all modes together")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--clients", type=int, choices=range(1, 17), default=4)
    options = parser.parse_args()
    broken = 0
    for mode in options.modes:
        seconds = options.minutes * 60 / len(options.modes)
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            outcome = asyncio.run(chaos(mode, options.seed, seconds, Path(folder), clients=options.clients))
            print(outcome.table(), flush=True)  # noqa: T201
            if outcome.broken:
                broken += len(outcome.broken)
                kept = Path(tempfile.mkdtemp(prefix=f"chaos-{mode}-logs-"))
                for log in (Path(folder) / "data/logs").iterdir():
                    (kept / log.name).write_bytes(log.read_bytes())
                print(f"  logs: {kept}")  # noqa: T201
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
