"""What the API server gave -> typed values.

It has checked a resource by the definition that it knows, which may be older or newer than this package's: what is
missing gets its default, what is unknown is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from diffusion_operator.api import crd, schema
from diffusion_operator.api.errors import FieldError, InvalidResourceError

Read = TypeVar("Read")


def read_live(resource: Mapping[str, Any], plural: str, read: Callable[[Mapping[str, Any]], Read]) -> Read:
    """What `read` makes of metadata and spec, with defaults. Raises InvalidResourceError for what can't be read."""
    try:
        definition = crd.schema(plural)["properties"]["spec"]
        spec = schema.with_defaults(schema.without_nulls(resource["spec"], definition), definition)
        return read({"metadata": resource["metadata"], "spec": spec})
    except InvalidResourceError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidResourceError(
            [FieldError(("spec",), f"can't be read ({error!r}): install this operator's CRDs, kubectl apply -f crds/")]
        ) from error
