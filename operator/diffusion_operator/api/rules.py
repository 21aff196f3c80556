"""The CEL rules of a structural schema (`x-kubernetes-validations`), evaluated as the API server does for a new object.

Rules that compare with the resource's former self (`oldSelf`) say nothing about a new one and are passed over.

`common-expression-language` has CEL's core; of Kubernetes' own libraries the rules use `quantity`, which is given to it
here as a number of the same order, with `add` and `compareTo`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import cel

from diffusion_operator.api import quantity
from diffusion_operator.api.errors import FieldError, Path
from diffusion_operator.api.schema import Schema


def rule_errors(value: Any, schema: Schema, path: Path = ()) -> Iterator[FieldError]:
    """Rules that `value` breaks, outermost first. `value` has its defaults and fits the schema's types."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and not _holds(rule["rule"], value):
            yield FieldError(path, rule["message"])
    if isinstance(value, Mapping):
        properties: Mapping[str, Schema] = schema.get("properties", {})
        for key, item in value.items():
            if key in properties:
                yield from rule_errors(item, properties[key], (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from rule_errors(item, schema.get("items", {}), (*path, index))


def _holds(rule: str, value: Any) -> bool:
    context = cel.Context(
        variables={"self": value},
        functions={
            "quantity": lambda text: float(quantity.exact(text)),
            "add": lambda a, b: a + b,
            "compareTo": lambda a, b: (a > b) - (a < b),
        },
    )
    result = _compiled(rule).execute(context)
    if not isinstance(result, bool):
        raise TypeError(f"the rule {rule!r} gives {result!r}, not true or false: mend the custom resource definition")
    return result


@cache
def _compiled(rule: str) -> Any:
    return cel.compile(rule)
