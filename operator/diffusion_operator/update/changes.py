"""What of pods differs between two sets of templates, by the paths of fields."""

from __future__ import annotations

import json
from collections.abc import Mapping

from diffusion_operator.api import Role
from diffusion_operator.render import Templates
from diffusion_operator.render.difference import differences
from diffusion_operator.render.generation import VARIABLE


def changes(held: Templates, made: Templates) -> dict[Role, tuple[str, ...]]:
    """Of each role that both have, and whose pods would be others: `spec.containers[main].image`."""
    variables = tuple(
        name
        for name in sorted(held.variables.keys() | made.variables.keys())
        if name != VARIABLE and held.variables.get(name) != made.variables.get(name)
    )
    found = {}
    for role in Role:
        ours, theirs = made.pods.get(role), held.pods.get(role)
        if ours is None or theirs is None or ours == theirs:
            continue
        # That a generation has another name says nothing.
        theirs = json.loads(json.dumps(theirs).replace(held.generation, made.generation))
        # Both ways: a field that goes is a change too.
        paths = dict.fromkeys([*differences(ours, theirs), *differences(theirs, ours)])
        found[role] = (*paths, *(variables if role is not Role.ROUTER else ()))
    return found


def by_field(found: Mapping[Role, tuple[str, ...]]) -> tuple[str, ...]:
    """`spec.containers[main].image (encoder, decoder)`, what is of more roles first."""
    roles_of: dict[str, list[Role]] = {}
    for role, paths in found.items():
        for path in paths:
            roles_of.setdefault(path, []).append(role)
    ordered = sorted(roles_of.items(), key=lambda change: -len(change[1]))
    return tuple(f"{path} ({', '.join(roles)})" for path, roles in ordered)
