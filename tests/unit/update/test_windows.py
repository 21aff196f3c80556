"""When a pipeline may begin to move."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_operator.api import InvalidResourceError, Window, load_pipeline
from diffusion_operator.update.windows import opens_in
from testbed.examples import resource

NIGHT = {"start": "22:00", "hours": 8, "timeZone": "Europe/Berlin"}


def windows(*specs: dict[str, object]) -> tuple[Window, ...]:
    return load_pipeline(resource("digits", update={"windows": list(specs)})).update.windows


@pytest.mark.parametrize(
    ("now", "hours"),
    [
        ("2026-11-29T20:59", 1 / 60),
        ("2026-11-29T21:00", 0),
        ("2026-11-30T04:59", 0),
        ("2026-11-30T05:00", 16),
        # Summer time.
        ("2026-07-01T20:00", 0),
        ("2026-07-01T19:00", 1),
        # The night in which clocks are turned back is as long as the others.
        ("2026-10-25T03:59", 0),
        ("2026-10-25T04:00", 17),
    ],
)
def test_a_window_is_of_the_zones_time_of_day_and_goes_over_midnight(now: str, hours: float) -> None:
    assert opens_in(windows(NIGHT), datetime.fromisoformat(f"{now}+00:00")) == hours * 3600


@pytest.mark.parametrize(
    ("now", "hours"),
    [("2026-11-27T23:00", 1), ("2026-11-28T00:00", 0), ("2026-11-29T23:59", 0), ("2026-11-30T00:00", 120)],
)
def test_a_weekend(now: str, hours: float) -> None:
    weekend = {"days": ["Saturday"], "start": "00:00", "hours": 48}
    assert opens_in(windows(weekend), datetime.fromisoformat(f"{now}+00:00")) == hours * 3600


def test_without_windows_it_is_always_time() -> None:
    assert opens_in((), datetime(2026, 11, 29, tzinfo=UTC)) == 0


def test_a_zone_that_nobody_knows_is_refused_by_its_name() -> None:
    with pytest.raises(
        InvalidResourceError, match=r"spec\.update\.windows\[0\]\.timeZone.*'Europe/Atlantis' is no time"
    ):
        windows(NIGHT | {"timeZone": "Europe/Atlantis"})


@given(
    st.lists(st.sampled_from(["Monday", "Thursday", "Sunday"]), unique=True),
    st.integers(0, 23),
    st.integers(1, 168),
    st.datetimes(datetime(2025, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC)),
)
def test_when_it_opens_it_is_open_and_not_before(days: list[str], hour: int, hours: int, now: datetime) -> None:
    one = windows({"days": days, "start": f"{hour:02}:00", "hours": hours, "timeZone": "America/New_York"})
    wait = opens_in(one, now)
    assert 0 <= wait <= 7 * 86400 + 3600
    assert opens_in(one, now + timedelta(seconds=wait)) == 0
    if wait > 1:
        assert opens_in(one, now + timedelta(seconds=wait - 1)) > 0
