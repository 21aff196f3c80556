"""What a container requests and is limited to: rules that the definition can't state.

A quantity may be a number such as 0.5, as in a pod. The definition can let that through only as a value without a type,
and rules of CEL do not see such values.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from diffusion_operator.api.errors import FieldError, InvalidResourceError, Path
from diffusion_operator.api.quantity import exact
from diffusion_operator.api.role import Object

ABOVE_LIMIT: Final = (
    "a request must not be above the limit of the same name: raise the limit, or lower the request ({names})"
)
GPUS_TWICE: Final = "GPUs are given twice: leave {name} out of limits, or leave gpus out"


def check_resources(resources: Object, gpus: str, path: Path) -> Object:
    """The resources, each quantity as whole number or text. `gpus`: what the role's own GPUs are called, if it has any.

    Raises InvalidResourceError.
    """
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    # GPUs first, since the remedy takes the limit away.
    if gpus and gpus in limits:
        raise InvalidResourceError([FieldError((*path, "limits", gpus), GPUS_TWICE.format(name=gpus))])
    above = [name for name in requests if name in limits and exact(requests[name]) > exact(limits[name])]
    if above:
        raise InvalidResourceError([FieldError(path, ABOVE_LIMIT.format(names=", ".join(above)))])
    return {part: {name: _text(amount) for name, amount in given.items()} for part, given in resources.items()}


def _text(amount: Any) -> Any:
    """A number with a fraction as text, the form in which the API server knows quantities; others as they are."""
    return f"{Decimal(str(amount)).normalize():f}" if isinstance(amount, float) else amount
