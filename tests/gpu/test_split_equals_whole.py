"""I5 on a GPU: three processes make the same bytes as one, for every family, in each precision that is served there."""

from __future__ import annotations

import pytest

from testbed.zoo import FAMILIES
from testbed.zoo.processes import Case
from testbed.zoo.roles import Roles

REPLAYED = [name for name, family in FAMILIES.items() if family.way == "replay"]

# The first test also waits for the processes.
pytestmark = pytest.mark.timeout(900)

each_family = pytest.mark.parametrize("family", FAMILIES)


@each_family
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_split_equals_whole(roles: Roles, family: str, dtype: str) -> None:
    outcome = roles.run(Case(family, dtype, "cuda"))
    split, whole = outcome["split"], outcome["whole"]
    assert split["denoised"] == whole["denoised"]
    assert split["pixels"] == whole["pixels"]
    assert split["files"] == whole["files"]


@each_family
def test_a_retry_makes_the_same_bytes(roles: Roles, family: str) -> None:
    case = Case(family, "bfloat16", "cuda")
    first = roles.run(case)["split"]
    assert roles.split(case) == first


@each_family
def test_each_role_computes_on_the_gpu(roles: Roles, family: str) -> None:
    processes = (roles.encoder, roles.denoiser, roles.decoder)
    case = Case(family, "bfloat16", "cuda")
    roles.run(case)
    for process in processes:
        process.call("gpu_working_memory")
    roles.split(case)
    assert all(process.call("gpu_working_memory") > 0 for process in processes)


@pytest.mark.parametrize("family", REPLAYED)
def test_replay_makes_what_the_plain_pipeline_makes(roles: Roles, family: str) -> None:
    # A GPU's kernels differ by more than a CPU's where a tensor that was sent has another layout.
    assert roles.whole.call("distance_to_plain", Case(family, "float32", "cuda")) < 1e-3
