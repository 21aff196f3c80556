"""Whether it is time: the windows in which a pipeline may begin to move."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from diffusion_operator.api import Window

_WEEK = 7


def opens_in(windows: Sequence[Window], now: datetime) -> float:
    """Seconds until one is open; 0: one is, or there are none."""
    if not windows:
        return 0.0
    return min(_opens_in(window, now) for window in windows)


def _opens_in(window: Window, now: datetime) -> float:
    today = now.astimezone(window.zone).date()
    soonest = float("inf")
    for offset in range(-_WEEK, _WEEK + 1):
        day = today + timedelta(days=offset)
        if day.weekday() not in window.days:
            continue
        # Clocks are turned: what is added to a local time is time of that day, and hours that pass are those of UTC.
        begins = datetime.combine(day, window.start, window.zone).astimezone(UTC)
        if begins <= now < begins + timedelta(hours=window.hours):
            return 0.0
        if begins > now:
            soonest = min(soonest, (begins - now).total_seconds())
    return soonest
