"""A worker one of whose forwards never ends: `python hanging_denoiser.py FILE FLAG …`.

The next forward while FILE is there takes it away, and then waits in native code for what never comes. So of several
workers one hangs, once.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

from diffusion_worker.settings import Settings


def main() -> None:
    file = Path(sys.argv.pop(1))
    settings = Settings.read()
    from diffusion_worker.app import main as work
    from diffusion_worker.model.calls import Call

    run = Call.run

    def run_or_hang(call: Call) -> Any:
        try:
            file.unlink()
        except FileNotFoundError:
            return run(call)
        while True:
            ctypes.CDLL(None).pause()

    Call.run = run_or_hang  # type: ignore[method-assign]
    work(settings)


if __name__ == "__main__":
    main()
