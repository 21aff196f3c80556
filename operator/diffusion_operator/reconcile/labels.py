"""Common labels and annotations of a role scaler, which is made once and never applied again (see `scalers`).

Which of its labels were common ones is written down in it: those that are common no more are taken off, and no others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from diffusion_operator.api import GROUP, Pipeline

ANNOTATION: Final = f"{GROUP}/common"


def marked(pipeline: Pipeline, scaler: Mapping[str, Any]) -> dict[str, Any]:
    """A scaler as it is made, with common labels already."""
    if not _wanted(pipeline):
        return dict(scaler)
    metadata = scaler["metadata"]
    annotations = {**metadata.get("annotations", {}), ANNOTATION: _text(_wanted(pipeline))}
    return {**scaler, "metadata": {**metadata, "annotations": annotations}}


def patch(pipeline: Pipeline, live: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be merged into its metadata; empty: nothing."""
    metadata, wanted = live["metadata"], _wanted(pipeline)
    text = metadata.get("annotations", {}).get(ANNOTATION)
    before = _read(text)
    found: dict[str, Any] = {}
    for field in ("labels", "annotations"):
        there, ours = metadata.get(field, {}), wanted.get(field, {})
        changed: dict[str, str | None] = {name: value for name, value in ours.items() if there.get(name) != value}
        changed |= dict.fromkeys((name for name in before.get(field, {}) if name in there and name not in ours), None)
        if changed:
            found[field] = changed
    if text != (_text(wanted) if wanted else None):
        found["annotations"] = {**found.get("annotations", {}), ANNOTATION: _text(wanted) if wanted else None}
    return found


def _wanted(pipeline: Pipeline) -> dict[str, dict[str, str]]:
    both = {"labels": dict(pipeline.labels), "annotations": dict(pipeline.annotations)}
    return {field: values for field, values in both.items() if values}


def _text(wanted: Mapping[str, Any]) -> str:
    return json.dumps(wanted, sort_keys=True)


def _read(text: str | None) -> dict[str, dict[str, str]]:
    try:
        found = json.loads(text or "{}")
        return {field: dict(values) for field, values in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
