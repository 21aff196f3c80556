"""What was found about one condition, and how it becomes the condition that is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from diffusion_operator.status.wording import clip

State = Literal["True", "False", "Unknown"]

_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Finding:
    status: State
    reason: str
    message: str


def true(reason: str, message: str) -> Finding:
    return Finding("True", reason, message)


def false(reason: str, message: str) -> Finding:
    return Finding("False", reason, message)


def unknown(reason: str, message: str) -> Finding:
    return Finding("Unknown", reason, message)


def condition(
    kind: str, found: Finding, *, generation: int, previous: Mapping[str, Any] | None, now: datetime
) -> dict[str, Any]:
    """The condition of type `kind`; its time moves only when its status does."""
    before = conditions_by_type(previous).get(kind)
    kept = before is not None and before["status"] == found.status
    return {
        "type": kind,
        "status": found.status,
        "reason": found.reason,
        "message": clip(found.message),
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if before is not None and kept else time_text(now),
    }


def conditions_by_type(status: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    return {found["type"]: found for found in (status or {}).get("conditions") or ()}


def time_text(time: datetime) -> str:
    return time.astimezone(UTC).strftime(_TIME)


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text)
