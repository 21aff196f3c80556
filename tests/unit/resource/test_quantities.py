from __future__ import annotations

import pytest

from diffusion_operator.api.quantity import exact, parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        (7, 7),
        ("1k", 1000),
        ("64Mi", 64 * 2**20),
        ("1.5Gi", 3 * 2**29),
        ("2G", 2 * 10**9),
        ("0.1k", 100),
        ("1e3", 1000),
        ("5e-1", 1),
        ("2E", 2 * 10**18),
        ("1.Ki", 1024),
        (".5Ki", 512),
        ("3000m", 3),
        ("7Pi", 7 * 2**50),
    ],
)
def test_a_quantity_is_a_whole_number(text: str | int, value: int) -> None:
    assert parse_quantity(text) == value


def test_a_part_of_one_is_rounded_up() -> None:
    assert parse_quantity("1.001") == 2
    assert parse_quantity("500m") == 1


def test_quantities_compare_exactly() -> None:
    assert exact("500m") == exact("0.5") < exact("501m")
    assert exact("2e9") == exact("2G") < exact("2Gi")


@pytest.mark.parametrize("text", ["", "4 GB", "-1", "Mi", "1Gib", "1e3k", ".", "1K", "1e9999"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)
