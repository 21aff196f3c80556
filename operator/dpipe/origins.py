"""Which of a pipeline's rendered fields a platform's defaults have decided, and which of them: by rendering without it.

So nothing has to be written down on the way, and what a pipeline says itself, or another section says too, is not told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from diffusion_operator.api import Pipeline, load_platform
from diffusion_operator.api.platform import KINDS_OF_PODS
from diffusion_operator.render import Made, render, templates
from diffusion_operator.render.difference import differences
from diffusion_operator.render.images import of_platform

Child = dict[str, Any]


def explained(pipeline: Pipeline, document: Mapping[str, Any] | None) -> Iterator[tuple[Child, list[str]]]:
    """Each child as the operator makes it with this platform file; of each, lines such as `spec.x: pods.env`.

    Raises InvalidResourceError.
    """
    document = document or {}
    children, compared = _rendered(pipeline, document)
    lines: list[list[str]] = [[] for _ in children]
    for section in _sections(document):
        others = {_id(child): child for child in _rendered(pipeline, _without(document, section))[1]}
        for child, told in zip(compared, lines, strict=True):
            other = others.get(_id(child), {})
            paths = dict.fromkeys((*differences(child, other), *differences(other, child)))
            told += [f"{path}: {'.'.join(section)}" for path in paths]
    yield from zip(children, lines, strict=True)


def _rendered(pipeline: Pipeline, document: Mapping[str, Any]) -> tuple[list[Child], list[Child]]:
    """The children, and the same to be compared: another generation would make them differ all over."""
    platform = load_platform(document)
    images, whole = of_platform(platform), platform.beneath(pipeline)
    made = templates(whole, images)
    children = render(whole, images, pods=Made(made))
    return children, json.loads(json.dumps(children).replace(made.generation, "generation"))


def _sections(document: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name, value in document.items():
        if name in KINDS_OF_PODS and value:
            yield from ((name, inner) for inner in value)
        else:
            yield (name,)


def _without(document: Mapping[str, Any], section: tuple[str, ...]) -> dict[str, Any]:
    name, *inner = section
    rest = {key: value for key, value in document.items() if key != name}
    if inner:
        rest[name] = {key: value for key, value in document[name].items() if key not in inner}
    return rest


def _id(child: Child) -> tuple[str, str]:
    return child["kind"], child["metadata"]["name"]
