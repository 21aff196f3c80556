"""Tries many classes, some at a time."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from testbed.zoo.classes.catalogue import CLASSES
from testbed.zoo.classes.trying import attempt, preload

SECONDS_EACH = 900


def run(names: Sequence[str], told: Callable[[str, dict[str, Any]], None]) -> dict[str, dict[str, Any]]:
    """The report on each class, in order of `names`; `told` hears of each as it is done."""
    preload()
    context = multiprocessing.get_context("fork")
    waiting, done = context.Queue(), context.Queue()
    for name in names:
        waiting.put(name)
    workers = [context.Process(target=_work, args=(waiting, done)) for _ in range(min(len(names), os.cpu_count() or 1))]
    for worker in workers:
        waiting.put(None)
        worker.start()
    reports: dict[str, dict[str, Any]] = {}
    try:
        for _ in names:
            name, report = done.get(timeout=SECONDS_EACH)
            reports[name] = report
            told(name, report)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    return {name: reports[name] for name in names}


def _work(waiting: Any, done: Any) -> None:
    while (name := waiting.get()) is not None:
        done.put((name, attempt(CLASSES[name])))


def main(names: Sequence[str]) -> None:
    """Writes the page's line on each class, one a line."""
    from testbed.zoo.classes.page import row

    def told(name: str, report: dict[str, Any]) -> None:
        sys.stdout.write(f"{row(name, report)}\n")
        sys.stdout.flush()

    run(names, told)


if __name__ == "__main__":
    main(sys.argv[1:])
