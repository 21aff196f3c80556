"""What becomes of zoo requests that are denoised among others, or in two goes, beside what becomes of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from testbed.zoo.processes import Case, Stay
from testbed.zoo.roles import Roles


class Company(NamedTuple):
    """What the denoiser made of requests, in their order."""

    together: list[bytes]
    alone: list[bytes]
    forwards: dict[str, Any]
    """Of those together, how many of each kind."""


def denoised_in_company(pipeline: Roles, cases: Sequence[Case]) -> Company:
    """These requests, all at once and each by itself."""
    encoded = [pipeline.encoder.call("encode", case) for case in cases]
    pairs = list(zip(cases, encoded, strict=True))
    alone = [pipeline.denoiser.call("denoise", case, one, gathers=True)[0] for case, one in pairs]
    together = pipeline.denoiser.call("denoise_together", [Stay(*pair) for pair in pairs])
    return Company(together["denoised"], alone, together["forwards"])


def distances(pipeline: Roles, company: Company) -> list[float]:
    """How far each is from itself alone, as a share of the largest value."""
    pairs = zip(company.together, company.alone, strict=True)
    return [pipeline.denoiser.call("distance", *pair) for pair in pairs]


def denoised_in_two(pipeline: Roles, case: Case) -> tuple[bytes, bytes]:
    """A request at once, and parked after its first step to go on from there."""
    encoded = pipeline.encoder.call("encode", case)
    at_once, _ = pipeline.denoiser.call("denoise", case, encoded)
    parked, _ = pipeline.denoiser.call("denoise", case, encoded, park_at=1)
    return at_once, pipeline.denoiser.call("denoise", case, parked)[0]
