"""The folder of adapters that requests may name, which may be a bucket or another network's file system.

One that hangs may do so for ever, and nothing ends a thread that asks it. So it is asked by a thread of its own, one at
a time, for which nobody waits longer than `LOOK_SECONDS` and no process when it ends: a worker goes on with what it saw
there last.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from diffusion_worker.model.types import UnsupportedModel
from diffusionpipeline.words import ADAPTER_NAME

LOOK_SECONDS: Final = 2.0
"""For which somebody waits for the folder, the thread that computes among them."""
MAX_OFFERED: Final = 1000
"""Of what is in it."""

_SUFFIX: Final = ".safetensors"


class _Reading(threading.Event):
    """Of the folder, set when it is over."""

    failed = False


class AdapterFolder:
    """Callable from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._found: dict[str, Path] = {}
        self._missing = False
        self._reading: _Reading | None = None

    def check(self) -> None:
        """Raises UnsupportedModel if it is not there. One that does not answer may yet be."""
        self.look()
        if self._missing:
            raise UnsupportedModel(
                f"model.adapterSource: there is no folder {self.path}: mount it into the encoders and denoisers"
            )

    def look(self) -> tuple[Mapping[str, Path], bool]:
        """Files and folders of adapters by name, and whether that is what is there now. If not, it did not answer in
        time or could not be read, and this is what was there last."""
        until = time.monotonic() + LOOK_SECONDS
        # What another began to read before now may lack what was put there since.
        while True:
            reading, ours = self._read()
            answered = reading.wait(max(0.0, until - time.monotonic()))
            if ours or not answered:
                with self._lock:
                    return self._found, answered and not reading.failed

    def _read(self) -> tuple[_Reading, bool]:
        """The end of a reading, and whether that begins now."""
        with self._lock:
            if self._reading is not None:
                return self._reading, False
            self._reading = _Reading()
            threading.Thread(target=self._list, args=(self._reading,), name="adapter-folder", daemon=True).start()
            return self._reading, True

    def _list(self, reading: _Reading) -> None:
        found: dict[str, Path] = {}
        missing = False
        try:
            found = _entries(self.path)
        except (FileNotFoundError, NotADirectoryError):
            missing = True
        except OSError:
            # As of a bucket that is out of reach for a while: what is in it is not known to be gone.
            reading.failed = True
        with self._lock:
            if not reading.failed:
                self._found, self._missing = found, missing
            self._reading = None
        reading.set()


def _entries(path: Path) -> dict[str, Path]:
    with os.scandir(path) as entries:
        there = sorted(one.name for one in entries if one.name.endswith(_SUFFIX) or one.is_dir())
    by_name = {name.removesuffix(_SUFFIX): path / name for name in there}
    # No request can have another name.
    named = [(name, place) for name, place in by_name.items() if re.fullmatch(ADAPTER_NAME, name, re.ASCII)]
    return dict(named[:MAX_OFFERED])
