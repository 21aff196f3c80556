"""How a pipeline is named: by its own metadata, by the label on whatever belongs to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusion_operator.render import names


@dataclass(frozen=True, order=True)
class Key:
    """Names a pipeline."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def key_of(item: Mapping[str, Any]) -> Key:
    metadata = item["metadata"]
    return Key(metadata["namespace"], metadata["name"])


def pipeline_of(metadata: Mapping[str, Any]) -> Key | None:
    """Of a child or a pod; None: it belongs to no pipeline."""
    name = metadata.get("labels", {}).get(names.PIPELINE_LABEL)
    return Key(metadata["namespace"], name) if name else None
