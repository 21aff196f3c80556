"""Which templates a pipeline's pods are made of: those that are written down, or those that this operator would make.

    written down        what this operator makes                      pods are made of
    ------------        ------------------------                      ----------------
    nothing             -                                             what it makes
    something           the same, of the spec as it is                that
    something           the same, of the spec as it was: an edit      what it makes
    something           others: the operator is another               what is written down, with the edit, if there was
                                                                      one, carried over; or, if the pipeline may move,
                                                                      what it makes

Whatever comes of it is written down before any pod is made so. After a move that is what this operator makes, so a
pipeline moves once; and whatever comes of an edit has that edit's spec, so it is carried over once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffusion_operator.api import InvalidResourceError, Pipeline, from_live
from diffusion_operator.render import Images, Templates, templates
from diffusion_operator.update.carry import carried
from diffusion_operator.update.changes import by_field, changes
from diffusion_operator.update.revision import Revision, digest

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Decision:
    revision: Revision
    """To be written down, if it is not."""
    available: str = ""
    """Digest of the templates that this operator would make, if they are others."""
    changes: tuple[str, ...] = ()
    """What a move would change, such as `spec.containers[main].image (encoder, decoder)`."""


def decide(
    resource: Object, pipeline: Pipeline, images: Images, written: Revision | None, *, settled: bool, moves: bool
) -> Decision:
    """`pipeline` is what was read from the resource.

    settled: what is written down was applied for the resource's spec as it is. moves: the pipeline may move now.
    """
    spec, made = resource["spec"], templates(pipeline, images)
    if written is None:
        return Decision(Revision(1, spec, images, made))
    if written.templates == made:
        return Decision(written)
    fresh = Revision(written.number + 1, spec, images, made)
    if moves:
        return Decision(replace(fresh, moved=True))
    before = _read(resource, written.spec)
    if before is None and spec != written.spec and not settled:
        # Of what this operator can't read no edit can be told, and one that does nothing is worse than a restart.
        return Decision(fresh)
    if before is not None and images == written.images and templates(before, images) == written.templates:
        return Decision(fresh)
    held = written
    if spec != written.spec:
        pods = written.templates
        if before is not None and not settled:
            pods = _with_edit(written.templates, before, pipeline, written.images)
        held = replace(fresh, images=written.images, templates=pods)
    return Decision(held, digest(made), by_field(changes(held.templates, made)))


def _read(resource: Object, spec: Object) -> Pipeline | None:
    """What the resource was; None: with an earlier operator's rules alone it can be read."""
    try:
        return from_live({**resource, "spec": spec})
    except InvalidResourceError:
        return None


def _with_edit(held: Templates, before: Pipeline, now: Pipeline, images: Images) -> Templates:
    was, to_be = (templates(pipeline, images).generation for pipeline in (before, now))
    # An edit that makes another generation must not meet the name of what this operator would make by itself.
    name = held.generation if was == to_be else hashlib.sha256(f"{held.generation} {to_be}".encode()).hexdigest()[:10]
    base, wanted = templates(before, images, held.generation), templates(now, images, name)
    return Templates(
        generation=name,
        variables=carried(held.variables, base.variables, wanted.variables),
        pods=carried(held.pods, base.pods, wanted.pods),
    )
