"""Tests wait for conditions by deadlines, and what they say when they wait in vain tells why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from testbed.waiting import NotYet, TooLate, always, eventually, throughout, until

SOON = 0.05


def after(looks: int, found: object = "found", before: object = None) -> Callable[[], Any]:
    """A condition that is met at the look after these."""
    left = iter(range(looks))
    return lambda: found if next(left, None) is None else before


def saying(error: Exception) -> Callable[[], Any]:
    def condition() -> None:
        raise error

    return condition


async def waited(asynchronous: bool, condition: Callable[[], Any], seconds: float, what: str) -> Any:
    if asynchronous:
        return await eventually(condition, seconds, what)
    return until(condition, seconds, what)


both = pytest.mark.parametrize("asynchronous", [False, True])


@both
async def test_what_the_condition_found_is_returned(asynchronous: bool) -> None:
    assert await waited(asynchronous, after(3), 10, "it is there") == "found"


@both
@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (lambda: False, "not within 0.05 s: it is there"),
        (list, r"not within 0.05 s: it is there; last seen: \[\]"),
        (saying(NotYet("two of three")), "not within 0.05 s: it is there; last seen: two of three"),
    ],
)
async def test_who_waits_in_vain_is_told_what_was_seen_last(
    asynchronous: bool, condition: Callable[[], Any], said: str
) -> None:
    with pytest.raises(TooLate, match=f"^{said}$"):
        await waited(asynchronous, condition, SOON, "it is there")


def test_an_error_that_was_named_is_what_was_seen() -> None:
    with pytest.raises(TooLate, match=r"^not within 0\.05 s: it is there; last seen: OSError: refused$"):
        until(saying(OSError("refused")), SOON, "it is there", despite=(OSError,))


@both
async def test_an_error_that_was_not_named_ends_the_wait(asynchronous: bool) -> None:
    with pytest.raises(OSError, match="broken"):
        await waited(asynchronous, saying(OSError("broken")), 10, "it is there")


def test_what_can_no_longer_come_is_not_waited_for() -> None:
    with pytest.raises(OSError, match="it ended"):
        until(lambda: False, 10, "it is there", unless=saying(OSError("it ended")))


async def test_a_condition_may_take_its_time_but_not_more_than_there_is() -> None:
    async def answer() -> str:
        await asyncio.sleep(0)
        return "found"

    assert await eventually(answer, 10, "it answers") == "found"
    with pytest.raises(TimeoutError):
        await eventually(asyncio.Event().wait, SOON, "it answers")


async def test_what_is_to_stay_so_is_looked_at_all_the_time() -> None:
    throughout(lambda: True, SOON, "it stays", pause=0.01)
    await always(lambda: True, SOON, "it stays")
    with pytest.raises(AssertionError, match=r"after 0\.\d s no longer: it stays"):
        throughout(after(2, found=0, before=1), 10, "it stays", pause=0.01)
    with pytest.raises(AssertionError, match=r"after 0\.\d s no longer: it stays"):
        await always(after(2, found=0, before=1), 10, "it stays")
