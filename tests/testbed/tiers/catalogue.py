"""The three sizes of the tests and what else runs like them, as data, each under the name of its Makefile target.

A tier is a few lanes that run beside each other; a lane is steps that run one after the other. Two lanes of tests are
as many as two cores bear. The gate's take as long as each other: what computes is in one, nodes are in the other.

Tests of processes, clusters and nodes depend on a machine that others use too: one that fails is run once more, alone,
after all else, and named if it passes then. Unit and contract tests have no such excuse.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PYTEST: Final = (sys.executable, "-m", "pytest", "--durations=15", "--durations-min=5")
GATE: Final = "--tier=gate"


@dataclass(frozen=True)
class Step:
    name: str
    paths: Sequence[str] = ()
    """Of tests; a step without is no tests, only its command."""
    options: Sequence[str] = ()
    command: Sequence[str] = PYTEST
    again: bool = False
    """Whether what fails in it is run once more."""
    root: bool = False
    """Whether only root can run it."""


@dataclass(frozen=True)
class Tier:
    name: str
    lanes: Sequence[Sequence[Step]]


_CHECK: Final = Step("check", command=("make", "--no-print-directory", "check"))
_UNIT: Final = Step("unit", ("tests/unit",))
_COMPUTING: Final = ("tests/contract/model", "tests/contract/parity")
_MODELS: Final = Step("models", _COMPUTING, (GATE,))
_CONTRACT: Final = Step("contract", ("tests/contract",), (GATE, *(f"--ignore={folder}" for folder in _COMPUTING)))
_INTEGRATION: Final = Step("integration", ("tests/integration",), (GATE,), again=True)
_GPU: Final = Step("gpu", ("tests/gpu",))

_RESOURCE: Final = ("tests/cluster/test_rules_of_the_resource.py",)
_STORY: Final = ("tests/cluster/test_a_users_story.py",)
_CHART: Final = ("tests/cluster/chart",)

_PROGRAMS: Final = ("nice", "-n", "19", sys.executable, "-m", "testbed.controlplane.programs")
# What takes minutes where nothing is cached. Tests that need it wait for it, so it is polite to those that do not.
_BUILDS: Final = (
    Step("programs", command=_PROGRAMS, again=True),
    Step("images", command=("nice", sys.executable, "-m", "testbed.images"), again=True, root=True),
)
_CLUSTER: Final = Step(
    "cluster",
    (
        *_RESOURCE,
        *_STORY,
        *_CHART,
        "tests/cluster/test_faults_of_rights.py",
        "tests/cluster/test_steady_state.py",
        "tests/cluster/test_killed_at_every_request.py",
    ),
    (GATE, "--every=8"),
    again=True,
)
_CHANGES: Final = Step(
    "changes",
    (
        "tests/cluster/test_another_operator_moves_nothing.py",
        "tests/cluster/test_a_generation_takes_over.py",
        "tests/cluster/test_what_a_change_would_do.py",
    ),
    (GATE,),
    again=True,
)
# In one run of pytest, which puts together what all of their processes wrote.
_COVERAGE: Final = Step(
    "coverage",
    (*_UNIT.paths, *_CONTRACT.paths, *_INTEGRATION.paths, *_CLUSTER.paths, *_CHANGES.paths),
    (*_CLUSTER.options, "--cov", "--cov-report="),
)

# On the oldest Kubernetes that the chart promises.
_OLDEST: Final = ("env", "TEST_KUBERNETES=oldest")
_NULLS: Final = ("tests/cluster/test_nulls.py",)
_OLDEST_TESTS: Final = Step("oldest", (*_RESOURCE, *_NULLS, *_STORY, *_CHART), command=(*_OLDEST, *PYTEST), again=True)
_OLDEST_BUILD: Final = Step("programs-oldest", command=(*_OLDEST, *_PROGRAMS), again=True)

TIERS: Final = {
    tier.name: tier
    for tier in (
        Tier("test-quick", lanes=((_CHECK, _UNIT),)),
        Tier(
            "test",
            lanes=(
                (
                    _CHECK,
                    _UNIT,
                    _MODELS,
                    _CONTRACT,
                    _CHANGES,
                    _GPU,
                ),
                (
                    # First what needs nothing that is built where the cache is empty.
                    _INTEGRATION,
                    _CLUSTER,
                    Step(
                        "e2e",
                        (
                            "tests/e2e/test_a_users_story.py",
                            "tests/e2e/test_network_policies.py",
                            "tests/e2e/test_scaling_under_load.py"
                            "::test_denoisers_that_come_get_work_and_those_that_go_lose_none",
                            "tests/e2e/test_replacements_under_load.py"
                            "::test_a_rollout_restart_of_every_role_loses_no_job",
                            "tests/e2e/test_faults_of_the_place.py"
                            "::test_a_node_of_workers_without_power_costs_time_and_no_job",
                        ),
                        (GATE,),
                        again=True,
                        root=True,
                    ),
                ),
                _BUILDS,
            ),
        ),
        Tier(
            "test-all",
            lanes=(
                (
                    _CHECK,
                    _UNIT,
                    Step("contract", ("tests/contract",)),
                    Step("integration", ("tests/integration",), again=True),
                    _GPU,
                    Step("rdma", ("tests/rdma",), again=True, root=True),
                    _OLDEST_TESTS,
                ),
                (
                    Step("cluster", ("tests/cluster",), again=True),
                    Step("e2e", ("tests/e2e",), again=True, root=True),
                ),
                (*_BUILDS, _OLDEST_BUILD),
            ),
        ),
        Tier("coverage", lanes=((_COVERAGE,),)),
        Tier("test-oldest", lanes=((_OLDEST_TESTS,), (_OLDEST_BUILD,))),
    )
}
