"""What a worker tells of its forwards: medians by shape and company, and no more of them than a heartbeat bears."""

from __future__ import annotations

from diffusion_worker.work.paces import FORGOTTEN_SECONDS, LATEST, MAX_KEPT, Paces
from unit.hub.networks import Doubler, call


def told(paces: Paces) -> dict[tuple[str, int], float]:
    return {(one.shape, one.requests): round(one.seconds, 3) for one in paces.reports()}


def test_each_shape_and_company_has_a_median_of_its_own() -> None:
    paces = Paces()
    for seconds in (9.0, 1.0, 1.2):
        paces.observe("Net 4x8", 1, seconds)
    paces.observe("Net 4x8", 2, 3.0)
    paces.observe("Net 4x16", 1, 5.0)
    assert told(paces) == {("Net 4x8", 1): 1.2, ("Net 4x8", 2): 3.0, ("Net 4x16", 1): 5.0}


def test_the_latest_count_and_of_these_only_those_of_the_last_while() -> None:
    now = 0.0
    paces = Paces(lambda: now)
    for _ in range(LATEST):
        paces.observe("Net", 1, 1.0)
    now = 1.0
    for _ in range(LATEST // 2 + 1):
        paces.observe("Net", 1, 2.0)
    assert told(paces) == {("Net", 1): 2.0}
    now = FORGOTTEN_SECONDS / 2
    paces.observe("Net", 1, 5.0)
    assert told(paces) == {("Net", 1): 2.0}
    now = FORGOTTEN_SECONDS + 2.0
    assert told(paces) == {("Net", 1): 5.0}


def test_what_was_not_seen_for_long_is_forgotten_first() -> None:
    paces = Paces()
    for number in range(MAX_KEPT):
        paces.observe("Net", number, 1.0)
    paces.observe("Net", 0, 1.0)
    paces.observe("other", 1, 1.0)
    assert len(told(paces)) == MAX_KEPT
    assert ("Net", 0) in told(paces)
    assert ("Net", 1) not in told(paces)


def test_what_was_slow_once_is_not_told_for_ever() -> None:
    now = 0.0
    paces = Paces(lambda: now)
    paces.observe("Net", 1, 1.0)
    paces.observe("Net", 2, 9.0)
    now = FORGOTTEN_SECONDS
    paces.observe("Net", 1, 1.0)
    assert told(paces) == {("Net", 1): 1.0, ("Net", 2): 9.0}
    now += 1.0
    assert told(paces) == {("Net", 1): 1.0}


def test_a_shape_is_the_network_and_one_sample() -> None:
    assert call(Doubler(), 1.0, shape=(2, 4, 3)).shape == "Doubler 4x3"
