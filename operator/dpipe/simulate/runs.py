"""The runs of a study, several beside each other: each is of a case, a policy and a seed, and needs none of the others.

Processes of their own, since all of a run is Python. Each makes the study anew from what it was asked for, which is
small; and each ends with the one that started it.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Final

from dpipe.simulate.errors import InputError, LostProcessError
from dpipe.simulate.policies import named
from dpipe.simulate.reading import read_study
from dpipe.simulate.run import Simulation
from dpipe.simulate.scenario import Outcome
from dpipe.simulate.studies import STUDIES, Study, Wanted

# Between two collections: nearly nothing that a simulation makes is ever part of a cycle, and to look for them at
# Python's own pace takes a tenth of its time.
_ALLOCATIONS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Asked:
    """Of which study: one that is built in, or a file's."""

    name: str | None
    scenario: Path | None = None
    trace: Path | None = None
    jobs: int | None = None
    faults: int | None = None

    def study(self) -> Study:
        """Raises InputError, OSError."""
        if (self.name is None) == (self.scenario is None):
            raise InputError(f"give one of {', '.join(STUDIES)}, or --scenario FILE")
        if self.scenario is not None:
            return read_study(self.scenario, self.trace, self.jobs)
        if self.trace is not None:
            raise InputError("--trace: give --scenario too, which says how long its shapes take and on what fleet")
        study = STUDIES.get(self.name or "")
        if study is None:
            raise InputError(f"{self.name}: is none of {', '.join(STUDIES)}")
        return study(Wanted(self.jobs, self.faults))


@dataclass(frozen=True, slots=True)
class Run:
    """case: its index in the study."""

    case: int
    policy: str
    seed: int


def usable_cores() -> int:
    # Not on every system is it known which ones this process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def play(asked: Asked, runs: Sequence[Run], processes: int) -> list[Outcome]:
    """What came of each, whatever the number of processes. Raises what the first of them raises that fails, and
    LostProcessError where a process is ended from outside."""
    if min(processes, len(runs)) <= 1:
        study = asked.study()
        return [_play(study, run) for run in runs]
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(runs)), context, _begin, (asked,)) as pool:
        try:
            return list(pool.map(_play_here, runs))
        except BaseException as error:
            # Once one fails, or the user has had enough, nobody waits for the rest.
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise LostProcessError("one of its processes was ended; with less memory give --processes 1") from None
            raise


def _play(study: Study, run: Run) -> Outcome:
    gc.set_threshold(_ALLOCATIONS)
    case, policy = study.cases[run.case], named(run.policy)
    made = case.changed(policy.make()) if case.changed else policy.make()
    return Simulation(case.scenario, made, run.seed, passes=policy.passes).run()


# ---------------------------------------------------------------- in a process of its own

_study: Study


def _begin(asked: Asked) -> None:
    global _study
    # A terminal interrupts all of them, and the one that started this one says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _study = asked.study()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _play_here(run: Run) -> Outcome:
    return _play(_study, run)
