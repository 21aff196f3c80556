"""What a pipeline's pods were made of, written down: a ControllerRevision, as StatefulSets have them.

It is an object of the API, owned by the pipeline, so it is there after a restart of the operator and in a restored
backup, where a status is not. The newest one counts; a few before it are kept to be looked at, and gone back to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from diffusion_operator.api import GROUP, Pipeline, Role
from diffusion_operator.render import Images, Made, Templates, names
from diffusion_operator.render.templates import other_track

LABEL: Final = f"{GROUP}/templates"
"""The digest of the templates. It tells these from the revisions of StatefulSets, which have all their pods' labels."""


@dataclass(frozen=True)
class Refused:
    """Templates that the pipeline has gone back from, or was told to; it does not go to them again by itself."""

    digest: str
    why: str


@dataclass(frozen=True)
class Revision:
    number: int
    """Rises with each."""
    spec: Mapping[str, Any]
    """The resource's, of which the templates were made."""
    images: Images
    """Those that the operator was installed with."""
    templates: Templates
    moved: bool = False
    """It was made because the operator is another, and not by an edit."""
    track: str = ""
    """Of the workers made of `templates`."""
    candidate: Templates | None = None
    """What takes over from `templates`, in the other track (see `surge`)."""
    surged: bool = False
    """A surge has ended with it: jobs begin in its generation alone, until pods of the other are gone."""
    refused: Refused | None = None

    @property
    def digest(self) -> str:
        return digest(self.templates)

    @property
    def other_track(self) -> str:
        return other_track(self.track)

    @property
    def made(self) -> Made:
        return Made(self.templates, self.track, self.candidate)


def digest(templates: Templates) -> str:
    """Ten hexadecimal digits: the same for the same pods."""
    return _digest(_data(templates))


def latest(items: Iterable[Mapping[str, Any]]) -> Revision | None:
    """Of a pipeline's ControllerRevisions; None: there is none that can be read."""
    return next(iter(newest_first(items)), None)


def newest_first(items: Iterable[Mapping[str, Any]]) -> list[Revision]:
    """Those that can be read."""
    found = (from_object(item) for item in sorted(items, key=lambda item: item["revision"], reverse=True))
    return [revision for revision in found if revision is not None]


def to_object(pipeline: Pipeline, revision: Revision) -> dict[str, Any]:
    data: dict[str, Any] = {
        "spec": revision.spec,
        "images": {"worker": revision.images.worker, "router": revision.images.router},
        "templates": _data(revision.templates),
        "moved": revision.moved,
        "track": revision.track,
        "surged": revision.surged,
    }
    if revision.candidate is not None:
        data["candidate"] = _data(revision.candidate)
    if revision.refused is not None:
        data["refused"] = {"digest": revision.refused.digest, "why": revision.refused.why}
    # The API server lets nobody change the data of one, so each has a name of its own.
    name = f"{pipeline.name}-{revision.number}-{_digest(data)}"
    metadata = names.metadata(pipeline, name)
    metadata["labels"] = {**metadata["labels"], LABEL: revision.digest}
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": metadata,
        "revision": revision.number,
        "data": data,
    }


def from_object(item: Mapping[str, Any]) -> Revision | None:
    """None: it is not of this form; another version of the operator wrote it, or another hand."""
    try:
        data = item["data"]
        refused = data.get("refused")
        return Revision(
            number=int(item["revision"]),
            spec=dict(data["spec"]),
            images=Images(worker=data["images"]["worker"], router=data["images"]["router"]),
            templates=_templates(data["templates"]),
            moved=bool(data["moved"]),
            track=str(data["track"]),
            candidate=_templates(data["candidate"]) if "candidate" in data else None,
            surged=bool(data["surged"]),
            refused=Refused(str(refused["digest"]), str(refused["why"])) if refused else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _templates(data: Mapping[str, Any]) -> Templates:
    return Templates(
        generation=str(data["generation"]),
        variables=dict(data["variables"]),
        pods={Role(role): dict(template) for role, template in data["pods"].items()},
    )


def _data(templates: Templates) -> dict[str, Any]:
    return {
        "generation": templates.generation,
        "variables": dict(templates.variables),
        "pods": {role.value: template for role, template in templates.pods.items()},
    }


def _digest(data: Mapping[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]
