"""The words of programs, and the numbers of the protocol, are the same everywhere."""

from __future__ import annotations

import subprocess
import sys
from enum import Enum
from typing import Any, get_args

import pytest

from diffusion_router import core
from diffusionpipeline.v1 import job_pb2, peer_pb2, registry_pb2, stage_pb2
from diffusionpipeline.words import MODEL_ROLES, STAGES, PriorityName, Role, number, rate_text, word

PROTOCOL: list[Any] = [
    stage_pb2.Role,
    stage_pb2.Stage,
    stage_pb2.FailureKind,
    job_pb2.JobStatus,
    job_pb2.Priority,
    registry_pb2.PeerState,
    peer_pb2.RefusalReason,
]


@pytest.mark.parametrize("enumeration", PROTOCOL, ids=lambda one: one.DESCRIPTOR.name)
def test_words_and_numbers_of_the_protocol_lead_to_each_other(enumeration: Any) -> None:
    assert word(enumeration, 0) == "unspecified"
    words = [word(enumeration, value) for value in enumeration.values()]
    assert [number(enumeration, one) for one in words] == enumeration.values()
    assert len(set(words)) == len(words)
    with pytest.raises(ValueError, match="FROM_TOMORROW"):
        number(enumeration, "from_tomorrow")
    assert word(enumeration, 999) == "unspecified", "a newer version's number"


def test_priorities_are_those_of_the_protocol() -> None:
    assert [word(job_pb2.Priority, value) for value in job_pb2.Priority.values()] == [
        "unspecified",
        *get_args(PriorityName),
    ]


def test_stages_and_roles_are_those_of_the_protocol() -> None:
    assert [word(stage_pb2.Stage, value) for value in stage_pb2.Stage.values()] == ["unspecified", *STAGES]
    assert [word(stage_pb2.Role, value) for value in stage_pb2.Role.values()] == ["unspecified", *MODEL_ROLES]
    for role, stage in zip(MODEL_ROLES, STAGES, strict=True):
        assert (role.stage, stage.role) == (stage, role)
        assert number(stage_pb2.Role, role) == number(stage_pb2.Stage, stage)
    with pytest.raises(ValueError, match="index"):
        _ = Role.ROUTER.stage


@pytest.mark.parametrize(
    ("ours", "protocol"),
    [
        (core.Stage, stage_pb2.Stage),
        (core.FailureKind, stage_pb2.FailureKind),
        (core.Priority, job_pb2.Priority),
        (core.RefusalReason, peer_pb2.RefusalReason),
    ],
)
def test_the_cores_numbers_are_those_of_the_protocol(ours: type[Enum], protocol: Any) -> None:
    known = {word(protocol, value): value for value in protocol.values()}
    assert {"unspecified": 0} | {one.name.lower(): one.value for one in ours} == known


@pytest.mark.parametrize(
    ("ours", "protocol"), [(core.JobStatus, job_pb2.JobStatus), (core.PeerState, registry_pb2.PeerState)]
)
def test_the_cores_words_are_those_of_the_protocol(ours: type[Enum], protocol: Any) -> None:
    assert ["unspecified", *(one.value for one in ours)] == [word(protocol, value) for value in protocol.values()]


def test_words_cost_no_library() -> None:
    code = """if True:
        import sys
        import diffusionpipeline.words
        print(sorted({"google", "grpc", "pydantic", "structlog"} & sys.modules.keys()))
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("rate", "text"),
    [(4.23e6, "4.2 MB/s"), (987e6, "990 MB/s"), (996e6, "1 GB/s"), (1.94e9, "1.9 GB/s"), (12.4e9, "12 GB/s")],
)
def test_a_rate_has_two_digits(rate: float, text: str) -> None:
    assert rate_text(rate) == text
