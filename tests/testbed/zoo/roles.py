"""Three role processes and a whole one, started once for all tests of a kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from testbed.zoo.processes import DECODER, DENOISER, ENCODER, WHOLE, Case, RoleProcess

START_SECONDS = 600
"""Some ten seconds of imports a process, and much longer on a machine that is busy."""


@dataclass
class Roles:
    """An encoder, a denoiser and a decoder in three processes, and the same mechanism whole in a fourth."""

    encoder: RoleProcess
    denoiser: RoleProcess
    decoder: RoleProcess
    whole: RoleProcess
    _outcomes: dict[Case, dict[str, Any]] = field(default_factory=dict, repr=False)

    def run(self, case: Case) -> dict[str, Any]:
        """What the three roles make of a case, and the whole: each case is computed once."""
        if case not in self._outcomes:
            self.whole.start("whole", case)
            try:
                split = self.split(case)
            finally:
                whole = self.whole.result()
            self._outcomes[case] = {"split": split, "whole": whole}
        return self._outcomes[case]

    def split(self, case: Case) -> dict[str, Any]:
        """What the three roles make of a case, with the bytes that pass between them."""
        encoded = self.encoder.call("encode", case)
        denoised, steps = self.denoiser.call("denoise", case, encoded)
        return {**self.decoder.call("decode", case, denoised), "encoded": encoded, "denoised": denoised, "steps": steps}


@contextlib.contextmanager
def started() -> Iterator[Roles]:
    processes = [RoleProcess(stages) for stages in (ENCODER, DENOISER, DECODER, WHOLE)]
    try:
        for process in processes:
            process.wait_until_ready(START_SECONDS)
        yield Roles(*processes)
    finally:
        for process in processes:
            process.close()
