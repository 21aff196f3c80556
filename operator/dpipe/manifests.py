"""Files as `kubectl apply -f` takes them: several documents, Lists, resources of other kinds in between.

    found = read_manifests(path)                 # all that is in it; raises InvalidResourceError, OSError
    pipelines = found.pipelines()                # all DiffusionPipelines, or the one of that name
    pipeline = found.pipeline()                  # where only one makes sense
    found.passed_over                            # what else there is, for a person

`found.resources` has the DiffusionPipelines as they are written, for who needs more than what is typed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from diffusion_operator.api import KIND, FieldError, InvalidResourceError, Pipeline, load_pipeline, with_defaults

Resource = Mapping[str, Any]


@dataclass(frozen=True)
class Manifests:
    resources: tuple[Resource, ...]
    """Those of kind DiffusionPipeline, not checked any further."""
    passed_over: tuple[str, ...]
    """Kind and name of each of the others."""

    def pipelines(self, name: str | None = None) -> list[Pipeline]:
        """name: NAME or NAMESPACE/NAME; None: all. Raises InvalidResourceError, with the faults of all of them."""
        wanted = [resource for resource in self.resources if name is None or name in _names(resource)]
        if not self.resources:
            raise _fault(f"has no {KIND}{f', but {self.others()}' if self.passed_over else ''}: give a file with one")
        if not wanted:
            raise _fault(f"has no {KIND} {name}: there is {self._listed()}")
        found: list[Pipeline] = []
        faults: list[FieldError] = []
        for resource in wanted:
            try:
                found.append(load_pipeline(resource))
            except InvalidResourceError as error:
                faults += _named(error.errors, resource) if len(self.resources) > 1 else error.errors
        if faults:
            raise InvalidResourceError(faults)
        return found

    def pipeline(self, name: str | None = None) -> Pipeline:
        """The one that is meant. Raises InvalidResourceError."""
        found = self.pipelines(name)
        if len(found) > 1:
            raise _fault(f"has {len(found)} {KIND}s, {self._listed()}: say which by --pipeline")
        return found[0]

    def others(self) -> str:
        """What was passed over, in words."""
        return ", ".join(self.passed_over)

    def _listed(self) -> str:
        return ", ".join(_label(resource) for resource in self.resources)


def read_manifests(path: Path) -> Manifests:
    """Of a YAML or JSON file (`-`: standard input). Raises InvalidResourceError, OSError, UnicodeDecodeError."""
    try:
        documents = [document for document in yaml.safe_load_all(read_text(path)) if document is not None]
    except yaml.YAMLError as error:
        raise _fault(f"is not YAML: {error}") from None
    items = list(_items(documents))
    ours = [item for item in items if item.get("kind") == KIND]
    # Of a single resource its own faults say more than that none is there.
    if not ours and len(items) == 1:
        load_pipeline(items[0])
    labels = [_label(resource) for resource in ours]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise _fault(f"has {' and '.join(twice)} twice: keep one of the two")
    others = [f"{item.get('kind', 'what has no kind')} {_label(item)}" for item in items if item.get("kind") != KIND]
    return Manifests(tuple(ours), tuple(others))


def read_defaulted(path: Path) -> list[Resource]:
    """The DiffusionPipelines, as the API server would store them. Raises as `read_manifests` does."""
    return [with_defaults(resource) for resource in read_manifests(path).resources]


def read_text(path: Path) -> str:
    """Raises OSError, UnicodeDecodeError."""
    return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")


def _items(documents: Sequence[Any]) -> Iterator[Resource]:
    for number, document in enumerate(documents, 1):
        if not isinstance(document, Mapping):
            raise _fault(
                f"document {number} is no object with apiVersion, kind, metadata and spec, but {document!r:.40}"
            )
        if str(document.get("kind", "")).endswith("List") and isinstance(document.get("items"), list):
            yield from _items(document["items"])
        else:
            yield document


def _metadata(resource: Resource) -> Mapping[str, Any]:
    metadata = resource.get("metadata")
    return metadata if isinstance(metadata, Mapping) else {}


def _label(resource: Resource) -> str:
    """Name, after its namespace if it has one."""
    metadata = _metadata(resource)
    return "/".join(str(metadata[key]) for key in ("namespace", "name") if metadata.get(key)) or "without a name"


def _names(resource: Resource) -> set[str]:
    return {_label(resource), str(_metadata(resource).get("name"))}


def _named(faults: Sequence[FieldError], resource: Resource) -> list[FieldError]:
    return [FieldError((), f"{_label(resource)}: {fault}") for fault in faults]


def _fault(message: str) -> InvalidResourceError:
    return InvalidResourceError([FieldError((), message)])
