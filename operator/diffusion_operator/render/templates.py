"""What a pipeline's pods are made of: their templates by role, and the generation's variables that all workers share.

Everything that replaces pods is in here, and nothing else is. So this is what a revision keeps (see `update`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from diffusion_operator.api import Pipeline, Role
from diffusion_operator.render import generation as generations
from diffusion_operator.render.images import Images
from diffusion_operator.render.podtemplate import router_template, worker_template


@dataclass(frozen=True)
class Templates:
    generation: str
    variables: Mapping[str, str]
    """Of the generation's ConfigMap."""
    pods: Mapping[Role, Mapping[str, Any]]
    """Of the router, and of each role that has pods of its own."""


TRACKS: Final = ("", "b")
"""Names of the two sets of StatefulSets that workers can have: one serves, the next generation comes up in the other.

Short, since a StatefulSet's name must be; and two for ever, so that claims of pods are found again.
"""


@dataclass(frozen=True)
class Made:
    """What all pods are made of."""

    templates: Templates
    track: str = ""
    """In which of `TRACKS` its workers are."""
    candidate: Templates | None = None
    """What is to take over, in the other track."""

    @property
    def sets(self) -> Iterator[tuple[Templates, str]]:
        """Of workers, with the track of each."""
        yield self.templates, self.track
        if self.candidate is not None:
            yield self.candidate, other_track(self.track)


def other_track(track: str) -> str:
    return TRACKS[1 - TRACKS.index(track)]


def templates(pipeline: Pipeline, images: Images, generation: str = "") -> Templates:
    """generation: what the workers' shall be called; empty: as what it is made of says."""
    generation = generation or generations.generation(pipeline, images.worker)
    pods = {Role.ROUTER: router_template(pipeline, images.router)}
    for spec, roles in pipeline.workers():
        pods[spec.role] = worker_template(pipeline, spec, roles, generation, images.worker)
    return Templates(generation, generations.data(pipeline, generation), pods)
