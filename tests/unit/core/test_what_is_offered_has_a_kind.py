"""Adapters, ControlNets, IP-Adapters and schedulers are offered by name, and one name may be of each kind."""

from __future__ import annotations

from diffusion_router.core.offers import (
    control_net_of,
    in_words,
    ip_adapter_of,
    of_control_net,
    of_ip_adapter,
    of_scheduler,
)

EACH = frozenset(["ink", of_control_net("ink"), of_ip_adapter("ink"), *of_scheduler("ink")])


def test_each_is_told_from_the_others() -> None:
    assert len(EACH) == 4
    assert [control_net_of(name) for name in EACH if control_net_of(name)] == ["ink"]
    assert [ip_adapter_of(name) for name in EACH if ip_adapter_of(name)] == ["ink"]


def test_people_are_told_which_are_missing() -> None:
    assert in_words(EACH | {"ash"}) == ("adapters ash, ink and ControlNet ink and IP-Adapter ink and scheduler ink"), (
        "sorted, each by its kind"
    )
