"""The operator is killed at each request that it makes, and another process comes to the same end (I8).

A chain takes one pipeline through all changes. At each of them the operator is cut off from the API server at its k-th
request since the change, and killed there with SIGKILL: before the request is carried out or, if it writes, after it
is carried out and before its answer is heard. Then another process starts. What there is in the end, all objects and
every status, is compared with a chain that nobody disturbed. This is done for k = 0, 1, 2 … until no change takes as
many requests. Several chains run side by side, each in a namespace of its own with an operator for it alone.

With `--every=5` only each fifth k is tried, from a random one on, which is shown; `--start` repeats it.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from testbed.controlplane.children import tail
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.forking import ForkedOperator, Forker
from testbed.controlplane.operators import operator_user
from testbed.controlplane.pipelines import POD_MONITORS, Pipelines, differences, pipeline
from testbed.controlplane.proxy import ANY, Call, Freeze, Proxy, Request, Rule

CRDS: Final = Path(__file__).parents[2] / "crds"
LANES: Final = 8
SECONDS: Final = 60.0
NAME: Final = "digits"

WITH_EVERYTHING: Final = pipeline(
    NAME,
    roles={"encoder": {"scaling": {"mode": "External"}}, "denoiser": {"replicas": 1}, "decoder": {"replicas": 2}},
    networkPolicy={"mode": "Isolate"},
    monitoring={"podMonitor": True},
)
# Those that take the most requests first: once a change has been cut everywhere, chains end before it.
CHANGES: Final[Mapping[str, Callable[[Pipelines], object]]] = {
    "create": lambda pipelines: pipelines.create(WITH_EVERYTHING),
    "update": lambda pipelines: pipelines.edit(NAME, model={"dtype": "bfloat16"}),
    "switch features off": lambda pipelines: pipelines.edit(
        NAME,
        roles={"encoder": {"scaling": None}, "decoder": {"replicas": 1}},
        networkPolicy={"mode": "None"},
        monitoring={"podMonitor": False},
    ),
    "scale": lambda pipelines: pipelines.edit(NAME, roles={"denoiser": {"replicas": 3}}),
    "suspend": lambda pipelines: pipelines.edit(NAME, suspend=True),
}
NOTHING: Final[Mapping[str, Any]] = {"pods": []}

States = dict[str, dict[str, Any]]


def is_write(request: Request) -> bool:
    return request.method != "GET"


class Cuts(NamedTuple):
    """At which requests to cut: each `every`-th from `start` on, which is less than `every`."""

    start: int
    every: int

    def numbers(self) -> Iterator[int]:
        return itertools.count(self.start, self.every)


@pytest.fixture(scope="session")
def drawn(pytestconfig: pytest.Config) -> Cuts:
    every: int = pytestconfig.getoption("--every", 1)
    start: int | None = pytestconfig.getoption("--start", None)
    if every < 1 or not 0 <= (start or 0) < every:
        raise pytest.UsageError(f"--every={every} --start={start}: must be at least 1, and from 0 to one less")
    return Cuts(random.randrange(every) if start is None else start, every)


@pytest.fixture
def cuts(drawn: Cuts, report: Callable[[str], None]) -> Cuts:
    if drawn.every > 1:
        report(f"at every {drawn.every}th request: --every={drawn.every} --start={drawn.start} does it again")
    return drawn


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One to itself: it has the PodMonitor API, and is busier than other tests would like."""
    with Cluster() as running:
        running.define(POD_MONITORS, CRDS)
        for number in range(5):
            running.add_node(f"node-{number}")
        operator_user(running, "test:operator")
        yield running


class Lane:
    """A namespace, the operator that watches it, and what is between that and the API server."""

    def __init__(self, cluster: Cluster, forker: Forker, proxy: Proxy, namespace: str, log: Path) -> None:
        cluster.add_namespace(namespace)
        self._cluster = cluster
        self.proxy = proxy
        self.pipelines = Pipelines(cluster.api, namespace)
        # No fake router can be asked: this address refuses at once.
        flags = (f"--watch-namespaces={namespace}", "--router-address=127.0.0.1:1")
        self.operator = ForkedOperator(forker, proxy.kubeconfig, *flags, log=log)
        self.operator.start()

    def change(self, how: Callable[[Pipelines], object], rule: Rule | None, wanted: Mapping[str, Any] | None) -> bool:
        """Whether the rule was met, and the operator killed, before `wanted` (or anything that lasts) was reached."""
        how(self.pipelines)
        killed = False
        if rule is not None:
            self.until(lambda: rule.was_hit or self._is(wanted), "a request is cut, or everything is done", wanted)
            if killed := rule.was_hit:
                self.kill_and_start()
        self.until(lambda: self._is(wanted), "everything is as in a run that nobody disturbed", wanted)
        self.proxy.reset()
        return killed

    def delete_at(self, number: int, wanted: Mapping[str, Any], *, kill: bool) -> bool:
        """Have the pipeline made, and deleted when the operator makes this request; whether it made so many."""
        fault = Freeze() if kill else Call(lambda: self.pipelines.delete(NAME))
        rule = self.proxy.rule(fault, skip=number)
        self.pipelines.create(WITH_EVERYTHING)
        self.until(lambda: rule.was_hit or self.pipelines.settled(NAME), "a request is cut, or all is done", wanted)
        if not rule.was_hit:
            # A request that it makes only now, such as of its status, must not meet the rule beside what follows.
            self.proxy.reset()
            if rule.hits:
                rule.wait(SECONDS)
        was_hit = rule.was_hit
        if kill or not was_hit:
            self.pipelines.delete(NAME)
        if kill and was_hit:
            self.kill_and_start()
        self.until_nothing_is_left()
        self.proxy.reset()
        return was_hit

    def kill_and_start(self) -> None:
        self.operator.kill()
        self.proxy.reset()
        self.operator.start()

    def delete(self) -> None:
        self.pipelines.delete(NAME)
        self.until_nothing_is_left()

    def until_nothing_is_left(self) -> None:
        self.until(lambda: self.pipelines.state() == NOTHING, "nothing is left", NOTHING)

    def until(self, condition: Callable[[], object], what: str, wanted: Mapping[str, Any] | None) -> None:
        try:
            self._cluster.until(condition, SECONDS, what, longest_pause=0.3)
        except Exception as error:
            wrong = "\n".join(differences(dict(wanted or {}), self.pipelines.state()))
            error.add_note(f"in {self.pipelines.namespace}:\n{wrong}\n{tail(self.operator.log)}")
            raise

    def _is(self, wanted: Mapping[str, Any] | None) -> bool:
        if not self.pipelines.settled(NAME):
            return False
        return wanted is None or self.pipelines.state() == wanted


@pytest.fixture(scope="module")
def lanes(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Lane]]:
    folder = tmp_path_factory.mktemp("operators")
    with contextlib.ExitStack() as stack:
        forker = stack.enter_context(Forker())
        proxies = [stack.enter_context(Proxy(cluster, "test:operator")) for _ in range(LANES)]
        yield [
            Lane(cluster, forker, proxy, f"killed-{number}", folder / f"{number}.log")
            for number, proxy in enumerate(proxies)
        ]


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> States:
    """After each change."""
    states = {}
    log = tmp_path_factory.mktemp("undisturbed") / "operator.log"
    with Forker() as forker, Proxy(cluster, "test:operator") as proxy:
        lane = Lane(cluster, forker, proxy, "undisturbed", log)
        for name, how in CHANGES.items():
            lane.change(how, None, None)
            states[name] = lane.pipelines.state()
    return states


class Chains:
    """Gives out the numbers of requests to cut at, in order, until there are no more to cut at."""

    def __init__(self, cuts: Cuts) -> None:
        self._numbers = cuts.numbers()
        self._lock = threading.Lock()
        self._exhausted: dict[str, int] = {}
        """A change that this number was too high for."""
        self.cuts: dict[str, int] = dict.fromkeys(CHANGES, 0)

    def next(self) -> int:
        with self._lock:
            return next(self._numbers)

    def changes(self, number: int) -> list[str]:
        """Those to make: up to the last that may take so many requests."""
        with self._lock:
            names = list(CHANGES)
            while names and self._exhausted.get(names[-1], number) < number:
                names.pop()
            return names

    def met(self, name: str, number: int, killed: bool) -> None:
        with self._lock:
            self.cuts[name] += killed
            if not killed:
                self._exhausted[name] = min(number, self._exhausted.get(name, number))


def run(lanes: list[Lane], work: Callable[[Lane], bool]) -> None:
    """Side by side and again and again, until there is no more work; what one of them raises is raised."""
    failed = threading.Event()

    def repeat(lane: Lane) -> None:
        try:
            while not failed.is_set() and work(lane):
                pass
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(len(lanes)) as pool:
        for done in [pool.submit(repeat, lane) for lane in lanes]:
            done.result()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("carried_out", [False, True], ids=["before", "after"])
def test_killed_at_any_request_of_a_change_another_process_comes_to_the_same_end(
    lanes: list[Lane], undisturbed: States, report: Callable[[str], None], cuts: Cuts, carried_out: bool
) -> None:
    chains = Chains(cuts)
    when = is_write if carried_out else ANY

    def chain(lane: Lane) -> bool:
        number = chains.next()
        names = chains.changes(number)
        for name in names:
            rule = lane.proxy.rule(Freeze(forward_first=carried_out), when, skip=number)
            chains.met(name, number, lane.change(CHANGES[name], rule, undisturbed[name]))
        if names:
            lane.delete()
        return bool(names)

    run(lanes, chain)
    report(", ".join(f"{name}: {count} kills" for name, count in chains.cuts.items()))
    # Others than the creation may take fewer requests than are passed over.
    assert all(chains.cuts[name] for name in (CHANGES if cuts.every == 1 else ["create"]))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("killed", [True, False], ids=["and-killed", "and-not-killed"])
def test_of_a_pipeline_that_is_deleted_at_any_request_of_its_creation_nothing_is_left(
    lanes: list[Lane], undisturbed: States, report: Callable[[str], None], cuts: Cuts, killed: bool
) -> None:
    numbers = cuts.numbers()
    deleted_at: list[int] = []

    def deletion(lane: Lane) -> bool:
        number = next(numbers)
        if was_hit := lane.delete_at(number, undisturbed["create"], kill=killed):
            deleted_at.append(number)
        return was_hit

    run(lanes, deletion)
    report(f"{len(deleted_at)} deletions")
    assert len(deleted_at) >= len(undisturbed["create"]) // cuts.every


def test_killed_at_any_request_of_its_start_it_has_written_nothing(
    lanes: list[Lane], undisturbed: States, report: Callable[[str], None], cuts: Cuts
) -> None:
    lane, done = lanes[0], undisturbed["create"]
    lane.change(CHANGES["create"], None, done)
    before = len(lane.proxy.requests)
    lane.kill_and_start()
    count = len(lane.proxy.requests) - before
    before = len(lane.proxy.requests)
    numbers = range(cuts.start, count, cuts.every)
    for number in numbers:
        lane.operator.kill()
        lane.proxy.reset()
        rule = lane.proxy.rule(Freeze(), skip=number)
        lane.operator.start(ready_within=None)
        rule.wait(SECONDS)
    lane.kill_and_start()
    assert lane.proxy.count(is_write, since=before) == 0
    assert lane.pipelines.state() == done
    lane.delete()
    report(f"{len(numbers)} kills at {count} requests")


def test_a_deletion_takes_no_request_of_the_operators(lanes: list[Lane]) -> None:
    lane = lanes[0]
    lane.change(CHANGES["create"], None, None)
    # Whoever is killed when a pipeline is deleted was not needed for it.
    lane.operator.kill()
    lane.delete()
    lane.operator.start()
