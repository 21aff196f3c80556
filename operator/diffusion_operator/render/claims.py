"""What the claims of a StatefulSet's pods hold, by the template that they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from diffusion_operator.api.quantity import exact

TEMPLATES: Final = "volumeClaimTemplates"

Object = Mapping[str, Any]


def sizes(stateful_set: Object) -> dict[str, str]:
    return {
        claim["metadata"]["name"]: claim["spec"]["resources"]["requests"]["storage"]
        for claim in stateful_set["spec"].get(TEMPLATES) or ()
    }


def resized(before: Object, after: Object) -> dict[str, tuple[str, str]]:
    """Of templates that both have, those whose size differs: what it was, and what it is to be."""
    was, will_be = sizes(before), sizes(after)
    return {
        name: (was[name], size) for name, size in will_be.items() if name in was and exact(was[name]) != exact(size)
    }


def with_sizes(stateful_set: Object, given: Mapping[str, str]) -> dict[str, Any]:
    """A copy in which templates have these sizes."""

    def sized(claim: Object) -> Object:
        size = given.get(claim["metadata"]["name"])
        resources = {"requests": {"storage": size}}
        return claim if size is None else {**claim, "spec": {**claim["spec"], "resources": resources}}

    spec = stateful_set["spec"]
    return {**stateful_set, "spec": {**spec, TEMPLATES: [sized(claim) for claim in spec.get(TEMPLATES) or ()]}}
