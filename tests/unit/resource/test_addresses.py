"""Ranges of addresses that may reach the router's service: what is none is refused with its field, place and form."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_operator.api import InvalidResourceError, load_pipeline, with_defaults


def ranges(*given: str) -> dict[str, Any]:
    service = {"type": "LoadBalancer", "loadBalancerSourceRanges": list(given)}
    return {
        "apiVersion": "diffusion-operator.dev/v1alpha1",
        "kind": "DiffusionPipeline",
        "metadata": {"name": "digits"},
        "spec": {"model": {"source": "Bundled"}, "router": {"service": service}},
    }


@pytest.mark.parametrize(
    "given", ["0.0.0.0/0", "10.1.2.3/8", "203.0.113.7/32", "::/0", "2001:DB8::/32", "::ffff:10.0.0.0/104"]
)
def test_a_range_of_addresses_is_taken(given: str) -> None:
    assert load_pipeline(ranges(given)).router.service.source_ranges == (given,)


@pytest.mark.parametrize(
    "given", ["10.0.0.0", "10.0.0.0/33", "10.0.0/8", "256.0.0.0/8", "010.0.0.0/8", "::/129", "example.com/8"]
)
def test_what_is_no_range_of_addresses_is_refused_by_the_definition(given: str) -> None:
    with pytest.raises(InvalidResourceError) as caught:
        with_defaults(ranges(given))
    (fault,) = caught.value.errors
    assert str(fault).startswith("spec.router.service.loadBalancerSourceRanges[0]: must match")


@pytest.mark.parametrize("given", ["1:::2/64", "1:2/64", "::1.2.3/64"])
def test_an_address_that_only_looks_like_ipv6_is_refused_with_its_place_and_form(given: str) -> None:
    with pytest.raises(InvalidResourceError) as caught:
        load_pipeline(ranges("::/0", given))
    assert str(caught.value).startswith("spec.router.service.loadBalancerSourceRanges[1]: ")
    assert str(caught.value).endswith("write it as 203.0.113.0/24 or 2001:db8::/32")
