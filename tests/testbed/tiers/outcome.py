"""How a step of a tier ended, and what that says of the whole run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from testbed.tiers.catalogue import Step


@dataclass(frozen=True)
class Failure:
    what: str
    """The test's node id, or the name of a step that is no tests."""
    cause: str
    others: Sequence[str] = ()
    """Tests that the same fixture failed with it: one failure, however many asked for that fixture."""

    @property
    def title(self) -> str:
        return f"{self.what} and {len(self.others)} more" if self.others else self.what


@dataclass
class Outcome:
    step: Step
    log: Path
    status: int
    seconds: float
    passed: int = 0
    skipped: int = 0
    failures: list[Failure] = field(default_factory=list)

    def read(self, record: Path) -> None:
        """What the tests wrote down of themselves. A run that did not come to its end has failed, whatever it says."""
        lines = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
        self.failures = _together(Failure(line["test"], line["cause"]) for line in lines if "test" in line)
        end = lines[-1] if lines and "exit" in lines[-1] else None
        if end is not None:
            self.passed, self.skipped = end["passed"], end["skipped"]
        # 1 is pytest's status for tests that failed; any other says that the run itself did.
        if end is None or end["exit"] not in (0, 1) or any("broken" in line for line in lines):
            self.failures = []
            self.status = self.status or 1

    @property
    def broken(self) -> bool:
        """Whether it failed, and not by tests that failed."""
        return self.status != 0 and not self.failures


@dataclass(frozen=True)
class Verdict:
    outcomes: Sequence[Outcome]
    flaky: Sequence[Failure]
    """Failed first, and passed alone."""
    failed: Sequence[Failure]
    left_out: Sequence[str]
    seconds: float
    whole: bool
    """Whether nothing may be left out."""

    @property
    def good(self) -> bool:
        return not self.failed and not (self.whole and self.left_out)

    def lines(self, target: str) -> list[str]:
        """The last ones of a run. The counts have a form that those who read logs of any tests know."""
        said = [", ".join(f"{outcome.step.name} {clock(outcome.seconds)}" for outcome in self.outcomes)]
        for failure in self.failed:
            said += [f"FAILED {failure.title}", f"    {failure.cause}"]
        said.append(f"flaky: {len(self.flaky)}")
        for failure in self.flaky:
            said += [f"    {failure.title}", f"        {failure.cause}"]
        said.append(f"make {target}: {'passed' if self.good else 'FAILED'} in {clock(self.seconds)}")
        passed = sum(outcome.passed for outcome in self.outcomes)
        passed += sum(1 + len(failure.others) for failure in self.flaky if "::" in failure.what)
        skipped = sum(outcome.skipped for outcome in self.outcomes)
        failed = sum(1 + len(failure.others) for failure in self.failed)
        said.append(f"{passed} passed, {failed} failed, {skipped} skipped")
        if self.left_out:
            said.append(f"left out, since they need root: {', '.join(self.left_out)}; `sudo make {target}` runs them")
        return said


def _together(failures: Iterable[Failure]) -> list[Failure]:
    """Those of one file that one fixture failed, as one."""
    found: dict[tuple[str, str], Failure] = {}
    for failure in failures:
        file = failure.what.partition("::")[0]
        key = (file, failure.cause) if failure.cause.startswith("setup:") else (failure.what, "")
        first = found.get(key)
        found[key] = replace(first, others=(*first.others, failure.what)) if first else failure
    return list(found.values())


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
