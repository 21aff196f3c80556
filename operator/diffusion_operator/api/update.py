"""When a pipeline moves to what another operator makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time
from typing import Any, Final
from zoneinfo import ZoneInfo

from diffusion_operator.api.crd import GROUP
from diffusion_operator.api.errors import FieldError, InvalidResourceError

UPDATE_ANNOTATION: Final = f"{GROUP}/update-to"
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, kw_only=True)
class Window:
    days: frozenset[int]
    """Those on which it begins: 0 is Monday."""
    start: time
    hours: int
    zone: ZoneInfo


@dataclass(frozen=True, kw_only=True)
class Surge:
    """How a new generation takes over from one that serves beside it."""

    step_percent: int
    pause_seconds: int
    max_failed_percent: int
    max_slower_percent: int


@dataclass(frozen=True, kw_only=True)
class Update:
    policy: str
    """Manual, WhenIdle or Rolling."""
    to: frozenset[str]
    """What is asked for by name: a digest (also that of a revision that is kept), or an operator's version."""
    windows: tuple[Window, ...]
    """Empty: at any time."""
    history: int
    """Revisions to be kept besides the present one."""
    surge: Surge | None
    """None: pods of another generation take the places of those that run."""


def update(spec: Mapping[str, Any], metadata: Mapping[str, Any]) -> Update:
    """Raises InvalidResourceError for a time zone that is not known."""
    told = {spec.get("to"), (metadata.get("annotations") or {}).get(UPDATE_ANNOTATION)}
    return Update(
        policy=spec["policy"],
        to=frozenset(name for name in told if name),
        windows=tuple(_window(window, index) for index, window in enumerate(spec.get("windows", ()))),
        history=spec["revisionHistoryLimit"],
        surge=_surge(spec["surge"]) if "surge" in spec else None,
    )


def _surge(spec: Mapping[str, Any]) -> Surge:
    return Surge(
        step_percent=spec.get("stepPercent", 25),
        pause_seconds=spec.get("pauseSeconds", 60),
        max_failed_percent=spec.get("maxFailedPercent", 5),
        max_slower_percent=spec.get("maxSlowerPercent", 50),
    )


def _window(spec: Mapping[str, Any], index: int) -> Window:
    name = spec.get("timeZone", "UTC")
    try:
        zone = ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        path = ("spec", "update", "windows", index, "timeZone")
        fault = FieldError(path, f"{name!r} is no time zone of the IANA database, such as Europe/Berlin")
        raise InvalidResourceError([fault]) from None
    days = spec.get("days") or DAYS
    return Window(
        days=frozenset(DAYS.index(day) for day in days),
        start=time.fromisoformat(spec["start"]),
        hours=spec["hours"],
        zone=zone,
    )
