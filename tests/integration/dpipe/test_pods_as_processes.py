"""A pod's process is kept up as the kubelet keeps a container up, and never outlives its pipeline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dpipe.up.pods import LocalProcess
from dpipe.up.process import LocalPod, PodState
from testbed import waiting
from testbed.processes import is_alive

SECONDS = 20.0

MakePod = Callable[..., LocalPod]

SLEEPER = "import time\nwhile True: time.sleep(1)"
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('on', flush=True)\n" + SLEEPER
CRASHER = "print('again', flush=True)\nraise SystemExit(3)"
LEAVER = "raise SystemExit(0)"
PARENT = f"""
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", {SLEEPER!r}]).pid, flush=True)
"""


def until(condition: Callable[[], object], what: str) -> None:
    waiting.until(condition, SECONDS, what)


@pytest.fixture
def make_pod(tmp_path: Path) -> Iterator[MakePod]:
    made: list[LocalPod] = []

    def make(code: str, *, restart: bool = True, **environment: str) -> LocalPod:
        spec = LocalProcess(
            pod=f"test-{len(made)}",
            role="decoder",
            command=(sys.executable, "-c", code),
            environment=environment,
            ports={"health": 1},
            folder=tmp_path / f"test-{len(made)}",
        )
        made.append(LocalPod(spec, tmp_path / f"test-{len(made)}.log", restart=restart))
        made[-1].start()
        return made[-1]

    yield make
    for pod in made:
        pod.begin_stop()
        pod.kill()
    assert all(pod.wait_stopped(time.monotonic() + SECONDS) for pod in made)


def test_a_process_runs_in_its_folder_with_its_environment_and_its_log(make_pod: MakePod, tmp_path: Path) -> None:
    pod = make_pod("import os; print(os.getcwd(), os.environ['ANSWER'])", restart=False, ANSWER="42")
    until(lambda: pod.state is PodState.ENDED, "it has ended")
    assert pod.log_tail() == f"{tmp_path / 'test-0'} 42"
    assert pod.exit_code == 0


def test_variables_of_a_worker_in_the_shell_do_not_reach_the_pods(
    make_pod: MakePod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFUSION_WORKER_BACKEND", "from the shell")
    pod = make_pod("import os; print(os.environ.get('DIFFUSION_WORKER_BACKEND'))", restart=False)
    until(lambda: pod.state is PodState.ENDED, "it has ended")
    assert pod.log_tail() == "None"


def test_a_killed_process_is_started_again(make_pod: MakePod) -> None:
    pod = make_pod(SLEEPER)
    first = pod.pid
    assert first is not None
    pod.kill()
    until(lambda: pod.pid not in (None, first), "another process runs")
    assert (pod.restarts, pod.exit_code) == (1, -signal.SIGKILL)
    assert not is_alive(first)


def test_restarts_come_slower_and_slower(make_pod: MakePod) -> None:
    started = time.monotonic()
    pod = make_pod(CRASHER)
    until(lambda: pod.restarts == 2, "it was restarted twice")
    # 0.5 s before the first restart, 1 s before the second.
    assert time.monotonic() - started >= 1.5
    assert pod.exit_code == 3


def test_one_that_left_as_it_was_told_is_back_at_once_however_often(make_pod: MakePod) -> None:
    """As in a cluster, where another pod is made in its place."""
    crasher, leaver = make_pod(CRASHER), make_pod(LEAVER)
    # 2 s of pauses; the other's first four are 7.5 s.
    until(lambda: leaver.restarts == 4, "it was started again four times")
    assert leaver.exit_code == 0
    assert crasher.restarts < 4


def test_with_restarts_off_a_process_that_ended_stays_so_until_it_is_started_again(make_pod: MakePod) -> None:
    pod = make_pod(CRASHER, restart=False)
    until(lambda: pod.state is PodState.ENDED, "it has ended")
    assert (pod.pid, pod.restarts) == (None, 0)
    assert pod.wait_stopped(time.monotonic() + SECONDS)
    pod.start()
    until(lambda: pod.log_tail() == "again\nagain", "it ran twice")


def test_sigterm_ends_a_process_for_good(make_pod: MakePod) -> None:
    pod = make_pod(SLEEPER)
    pod.begin_stop()
    assert pod.wait_stopped(time.monotonic() + SECONDS)
    assert (pod.state, pod.pid, pod.restarts) == (PodState.ENDED, None, 0)


def test_a_stop_during_back_off_starts_nothing(make_pod: MakePod) -> None:
    pod = make_pod(CRASHER)
    until(lambda: pod.state is PodState.BACK_OFF, "it waits before it starts again")
    pod.begin_stop()
    assert pod.wait_stopped(time.monotonic() + SECONDS)
    assert pod.pid is None


def test_a_process_that_ignores_sigterm_is_killed(make_pod: MakePod) -> None:
    pod = make_pod(STUBBORN)
    until(lambda: pod.log_tail() == "on", "it runs")
    pod.begin_stop()
    assert not pod.wait_stopped(time.monotonic() + 0.3)
    pod.kill()
    assert pod.wait_stopped(time.monotonic() + SECONDS)


def test_a_stopped_process_is_killed_too(make_pod: MakePod) -> None:
    pod = make_pod(SLEEPER)
    assert pod.signal(signal.SIGSTOP)
    pod.begin_stop()
    pod.kill()
    assert pod.wait_stopped(time.monotonic() + SECONDS)


def test_what_a_process_leaves_behind_goes_with_it(make_pod: MakePod) -> None:
    pod = make_pod(PARENT, restart=False)
    until(lambda: pod.state is PodState.ENDED, "it has ended")
    until(lambda: not is_alive(int(pod.log_tail())), "what it started has ended")


def test_no_process_outlives_a_dpipe_that_was_killed(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from dpipe.up.pods import LocalProcess
from dpipe.up.process import LocalPod
folder = Path({str(tmp_path)!r})
pod = LocalPod(LocalProcess("p", "decoder", (sys.executable, "-c", {SLEEPER!r}), {{}}, {{}}, folder), folder / "log")
pod.start()
print(pod.pid, flush=True)
time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    # Until it is past its own beginning: the program it was to become.
    until(lambda: b"child.py" not in Path(f"/proc/{pid}/cmdline").read_bytes(), "the program runs")
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait(SECONDS)
    owner.stdout.close()
    until(lambda: not is_alive(pid), "the process has ended")
