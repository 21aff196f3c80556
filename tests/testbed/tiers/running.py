"""Runs a tier: its lanes beside each other, then once more what failed and may be run again, then the verdict."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from testbed.tiers.catalogue import Step, Tier
from testbed.tiers.outcome import Failure, Outcome, Verdict, clock

MOST_FLAKY: Final = 3
_END_SECONDS: Final = 60.0


class Run:
    """Of one tier. `folder` gets a log of each step; `root`: whether it may run what needs root."""

    def __init__(self, tier: Tier, folder: Path, *, root: bool) -> None:
        self._tier = tier
        self._folder = folder
        self._root = root
        self._children: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._ending = False

    def run(self) -> int:
        """The exit status."""
        begun = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        outcomes = self._run_lanes()
        flaky, failed = self._run_again(outcomes)
        verdict = Verdict(
            outcomes,
            flaky,
            failed,
            left_out=[step.name for lane in self._tier.lanes for step in lane if not self._may(step)],
            seconds=time.monotonic() - begun,
            whole=os.environ.get("CI") == "true",
        )
        say("", *verdict.lines(self._tier.name))
        return 0 if verdict.good else 1

    def _may(self, step: Step) -> bool:
        return self._root or not step.root

    def _run_lanes(self) -> list[Outcome]:
        with ThreadPoolExecutor(len(self._tier.lanes)) as pool:
            lanes = [pool.submit(self._run_lane, lane) for lane in self._tier.lanes]
            try:
                return [outcome for lane in lanes for outcome in lane.result()]
            except BaseException:
                # Or the pool would wait for what it runs.
                self._end_children()
                raise

    def _run_lane(self, lane: Sequence[Step]) -> list[Outcome]:
        return [self._run_step(step) for step in lane if self._may(step)]

    def _run_step(self, step: Step) -> Outcome:
        log = self._folder / f"{step.name}.log"
        say(f"{step.name}: begun, {log}")
        outcome = self._execute(step, step.paths, log)
        text = log.read_text(errors="replace").rstrip()
        if outcome.status:
            say(text)
        ending = text.rpartition("\n")[2].strip("= ") if step.paths else f"status {outcome.status}"
        say(f"{step.name}: {ending}, {clock(outcome.seconds)}")
        return outcome

    def _run_again(self, outcomes: Sequence[Outcome]) -> tuple[list[Failure], list[Failure]]:
        """What passed alone, and what failed for good."""
        failed, doubtful = [], []
        for outcome in outcomes:
            broken = (
                [Failure(outcome.step.name, f"status {outcome.status}, see {outcome.log}")] if outcome.broken else []
            )
            for failure in outcome.failures or broken:
                if outcome.step.again and not (broken and outcome.step.paths):
                    doubtful.append((outcome.step, failure))
                else:
                    failed.append(failure)
        if len(doubtful) > MOST_FLAKY:
            say(f"{len(doubtful)} failed that may be run once more; of more than {MOST_FLAKY} none is")
            return [], [*failed, *(failure for _, failure in doubtful)]
        flaky = []
        for number, (step, failure) in enumerate(doubtful, 1):
            say(f"{failure.title}: once more, alone")
            log = self._folder / f"{step.name}-again-{number}.log"
            outcome = self._execute(step, [failure.what, *failure.others] if step.paths else [], log)
            if outcome.status:
                say(log.read_text(errors="replace"))
            (failed if outcome.status else flaky).append(failure)
        return flaky, failed

    def _execute(self, step: Step, paths: Sequence[str], log: Path) -> Outcome:
        record = log.with_suffix(".json")
        record.unlink(missing_ok=True)
        begun = time.monotonic()
        arguments = (*step.options, f"--record={record}", *paths) if step.paths else step.options
        child = self._start([*step.command, *arguments], log)
        outcome = Outcome(step, log, status=child.wait(), seconds=time.monotonic() - begun)
        if step.paths:
            outcome.read(record)
        return outcome

    def _start(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        with self._lock, log.open("wb") as file:
            if self._ending:
                raise KeyboardInterrupt
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
            self._children.append(child)
            return child

    def _end_children(self) -> None:
        with self._lock:
            self._ending = True
            running = [child for child in self._children if child.poll() is None]
        for child in running:
            child.terminate()
        for child in running:
            try:
                child.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)  # noqa: T201
