import pytest

from diffusion_operator.api.quantity import parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), (7, 7), ("1k", 1000), ("64Mi", 64 * 2**20), ("1.5Gi", 3 * 2**29), ("2G", 2 * 10**9), ("0.1k", 100)],
)
def test_a_quantity_is_a_whole_number(text: str | int, value: int) -> None:
    assert parse_quantity(text) == value


def test_a_part_of_one_is_rounded_up() -> None:
    assert parse_quantity("1.001") == 2


@pytest.mark.parametrize("text", ["", "4 GB", "-1", "1e3", "Mi", "1.Gi", "1Gib"])
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        parse_quantity(text)
