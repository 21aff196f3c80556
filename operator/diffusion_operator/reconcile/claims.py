"""Templates of claims, which nobody can change once their StatefulSet is made.

Some of what they say is of no weight to what runs: labels, annotations, and a storage class that is a default of the
platform. A change of those is no fault that keeps a pipeline from being Ready: the templates stay as they were made,
and that is said. What a claim is to hold may grow (see `growth`). All else that differs is for `apply` to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from diffusion_operator.render.claims import TEMPLATES

Object = dict[str, Any]

_METADATA: Final = ("labels", "annotations")
_CLASS: Final = "storageClassName"


def as_made(wanted: Object, live: Mapping[str, Any]) -> tuple[Object, list[str]]:
    """The StatefulSet with labels, annotations and classes of its claims as they are; and which of these differ."""
    made = {claim["metadata"]["name"]: claim for claim in live["spec"].get(TEMPLATES) or ()}
    ours = wanted["spec"].get(TEMPLATES) or ()
    kept: dict[str, None] = {}
    found = [_as(claim, made.get(claim["metadata"]["name"], claim), kept) for claim in ours]
    return ({**wanted, "spec": {**wanted["spec"], TEMPLATES: found}} if kept else wanted), list(kept)


def note(name: str, kept: list[str]) -> str:
    return (
        f"claims of StatefulSet {name} keep the {' and '.join(kept)} that they were made with, which can't be changed; "
        f"`kubectl delete statefulset {name} --cascade=orphan --wait=false` has it made anew around its pods, "
        "for claims to come"
    )


def _as(claim: Object, made: Mapping[str, Any], kept: dict[str, None]) -> Object:
    metadata, spec = dict(claim["metadata"]), dict(claim["spec"])
    for field in _METADATA:
        _take(field, metadata, made["metadata"], field, kept)
    _take(_CLASS, spec, made["spec"], "storage class", kept)
    return {**claim, "metadata": metadata, "spec": spec}


def _take(field: str, ours: Object, made: Mapping[str, Any], word: str, kept: dict[str, None]) -> None:
    value = made.get(field)
    if (ours.get(field) or None) == (value or None):
        return
    kept[word] = None
    if value:
        ours[field] = value
    else:
        ours.pop(field, None)
