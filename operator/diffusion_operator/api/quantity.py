"""Kubernetes quantities: `512Mi`, `4Gi`, `1.5G`."""

import re
from decimal import Decimal
from typing import Final

_FORM: Final = re.compile(r"^(\d+(?:\.\d{1,3})?)(k|M|G|T|Ki|Mi|Gi|Ti)?$")
_FACTORS: Final = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def parse_quantity(text: str | int) -> int:
    """The whole number that a quantity stands for, rounded up as Kubernetes does. Raises ValueError on another form."""
    match = _FORM.match(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a quantity: write a number with k, M, G, T, Ki, Mi, Gi or Ti, such as 512Mi")
    value = Decimal(match[1]) * _FACTORS[match[2] or ""]
    whole = int(value)
    return whole if value == whole else whole + 1
