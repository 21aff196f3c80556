"""Which templates a pipeline's pods are made of: those that are written down, or those that this operator would make.

    written down        what this operator makes                      pods are made of
    ------------        ------------------------                      ----------------
    nothing             -                                             what it makes
    something           the same, of the spec as it is                that
    something           the same, of the spec as it was: an edit      what it makes
    something           others: the operator is another               what is written down, with the edit, if there was
                                                                      one, carried over; or, if the pipeline may move,
                                                                      what it makes

What is decided takes the place of what runs, or, with `spec.update.surge`, comes up beside it as a candidate (`surge`).
A candidate counts as what is written down, until it is gone back from.

Whatever comes of it is written down before any pod is made so. After a move that is what this operator makes, so a
pipeline moves once; and whatever comes of an edit has that edit's spec, so it is carried over once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffusion_operator.api import InvalidResourceError, Pipeline, Platform, from_live
from diffusion_operator.api.platform import NOTHING
from diffusion_operator.render import Images, Templates, templates
from diffusion_operator.update.carry import carried
from diffusion_operator.update.changes import by_field, changes
from diffusion_operator.update.revision import Refused, Revision, digest

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
    resource: Object,
    pipeline: Pipeline,
    images: Images,
    written: Revision | None,
    *,
    settled: bool,
    moves: bool,
    kept: Sequence[Revision] = (),
    platform: Platform = NOTHING,
) -> Decision:
    """`pipeline` is what was read from the resource, with the platform's defaults beneath it.

    settled: what is written down was applied for the resource's spec as it is. moves: the pipeline may move now. kept:
    earlier revisions, which it may be told to go back to.
    """
    if written is None:
        return Decision(Revision(1, resource["spec"], images, templates(pipeline, images)))
    # What is to come of it once the candidate, if there is one, has taken over.
    target = replace(written, templates=written.candidate or written.templates, candidate=None)
    made = templates(pipeline, images)
    back = next(
        (each for each in kept if each.digest in pipeline.update.to and is_of(each, resource, images, made, platform)),
        None,
    )
    if back is not None:
        decision = _gone_back(back, target, resource["spec"], made)
    else:
        decision = _decided(resource, pipeline, images, target, made, platform, settled=settled, moves=moves)
    if decision.revision is target:
        return replace(decision, revision=written)
    return replace(decision, revision=_in_tracks(pipeline, written, decision))


def is_of(revision: Revision, resource: Object, images: Images, made: Templates, platform: Platform = NOTHING) -> bool:
    """Whether it was made of what the resource says now, as far as pods go: `made` is what this operator makes of that.

    Nobody goes back by a word alone to a revision of another spec: the spec would be without effect.
    """
    before = _read(resource, revision.spec, platform)
    return before is not None and templates(before, images) == made


def _gone_back(back: Revision, target: Revision, spec: Object, made: Templates) -> Decision:
    found = target
    if (target.templates, target.spec) != (back.templates, spec):
        found = replace(target, number=target.number + 1, spec=spec, images=back.images, templates=back.templates)
    if back.templates == made:
        return Decision(found)
    # A policy by which pipelines move by themselves is not to undo it.
    if found is not target:
        found = replace(found, refused=Refused(digest(made), "spec.update.to names the revision before it"))
    return Decision(found, digest(made), by_field(changes(found.templates, made)))


def _in_tracks(pipeline: Pipeline, written: Revision, decision: Decision) -> Revision:
    """What was decided, as what serves or as what takes over from it."""
    wanted, serves = decision.revision, written.templates
    refused = wanted.refused
    if refused is None and written.refused is not None and written.refused.digest == decision.available:
        refused = written.refused
    found = replace(wanted, track=written.track, refused=refused)
    if wanted.templates == serves:
        return replace(found, surged=written.surged or written.candidate is not None)
    if may_surge(pipeline, serves, wanted.templates):
        return replace(found, templates=serves, candidate=wanted.templates)
    return found


def may_surge(pipeline: Pipeline, serves: Templates, wanted: Templates) -> bool:
    """Within a generation pods take each other's places, and a role that comes or goes has no place in both tracks."""
    return (
        pipeline.update.surge is not None
        and not pipeline.suspended
        and wanted.generation != serves.generation
        and wanted.pods.keys() == serves.pods.keys()
    )


def _decided(
    resource: Object,
    pipeline: Pipeline,
    images: Images,
    written: Revision,
    made: Templates,
    platform: Platform,
    *,
    settled: bool,
    moves: bool,
) -> Decision:
    """made: what this operator makes of the resource."""
    spec = resource["spec"]
    if written.templates == made:
        return Decision(written)
    fresh = Revision(written.number + 1, spec, images, made)
    if moves:
        return Decision(replace(fresh, moved=True))
    before = _read(resource, written.spec, platform)
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


def _read(resource: Object, spec: Object, platform: Platform) -> Pipeline | None:
    """What the resource was; None: with an earlier operator's rules alone it can be read."""
    try:
        return platform.beneath(from_live({**resource, "spec": spec}))
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
