"""Weights beside the model's own that a resource lists, as the JSON of a worker's variable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from diffusion_operator.api import Adapter, ControlNet, IPAdapter


def variable(name: str, listed: Sequence[Adapter] | Sequence[ControlNet] | Sequence[IPAdapter]) -> dict[str, str]:
    """None where nothing is listed: pipelines from before the field stay of their generation."""
    if not listed:
        return {}
    return {name: json.dumps([asdict(one) for one in listed], ensure_ascii=False, separators=(",", ":"))}
