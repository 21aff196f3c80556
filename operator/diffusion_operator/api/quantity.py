"""Kubernetes quantities: `512Mi`, `4Gi`, `1.5G`, `500m`, `2e9`."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

_FORM: Final = re.compile(r"^(\d+(?:\.\d*)?|\.\d+)(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?\d{1,3}))?$")
_FACTORS: Final = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}


def exact(text: str | float) -> Decimal:
    """The number that a quantity stands for. Raises ValueError on another form."""
    match = _FORM.match(str(text))
    if match is None:
        raise ValueError(
            f"{text!r} is not a quantity: write a number with m, k, M, G, T, Ki, Mi, Gi or Ti, such as 512Mi"
        )
    number, suffix, exponent = match.groups()
    if exponent:
        return Decimal(number).scaleb(int(exponent))
    return Decimal(number) * _FACTORS[suffix] if suffix else Decimal(number)


def parse_quantity(text: str | float) -> int:
    """The whole number that a quantity stands for, rounded up as Kubernetes does. Raises ValueError on another form."""
    value = exact(text)
    whole = int(value)
    return whole if value == whole else whole + 1
