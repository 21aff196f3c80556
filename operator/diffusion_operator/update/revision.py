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
from diffusion_operator.render import Images, Templates, names

LABEL: Final = f"{GROUP}/templates"
"""The digest of the templates. It tells these from the revisions of StatefulSets, which have all their pods' labels."""


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

    @property
    def digest(self) -> str:
        return digest(self.templates)


def digest(templates: Templates) -> str:
    """Ten hexadecimal digits: the same for the same pods."""
    return _digest(_data(templates))


def latest(items: Iterable[Mapping[str, Any]]) -> Revision | None:
    """Of a pipeline's ControllerRevisions; None: there is none that can be read."""
    found = (from_object(item) for item in sorted(items, key=lambda item: item["revision"], reverse=True))
    return next((revision for revision in found if revision is not None), None)


def to_object(pipeline: Pipeline, revision: Revision) -> dict[str, Any]:
    data = {
        "spec": revision.spec,
        "images": {"worker": revision.images.worker, "router": revision.images.router},
        "templates": _data(revision.templates),
        "moved": revision.moved,
    }
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
        made = data["templates"]
        return Revision(
            number=int(item["revision"]),
            spec=dict(data["spec"]),
            images=Images(worker=data["images"]["worker"], router=data["images"]["router"]),
            templates=Templates(
                generation=str(made["generation"]),
                variables=dict(made["variables"]),
                pods={Role(role): dict(template) for role, template in made["pods"].items()},
            ),
            moved=bool(data["moved"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _data(templates: Templates) -> dict[str, Any]:
    return {
        "generation": templates.generation,
        "variables": dict(templates.variables),
        "pods": {role.value: template for role, template in templates.pods.items()},
    }


def _digest(data: Mapping[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:10]
