"""Schedulers that requests may name, as workers are told of them."""

from __future__ import annotations

import json
from typing import Final

from diffusion_operator.api import Model

SCHEDULERS: Final = "DIFFUSION_WORKER_SCHEDULERS"


def meaning(model: Model) -> dict[str, str]:
    """The variable that decides what a scheduler's name means. None where there are none."""
    if not model.schedulers:
        return {}
    told = [{"name": one.name, "class": one.class_name, "options": dict(one.options)} for one in model.schedulers]
    return {SCHEDULERS: json.dumps(told, ensure_ascii=False, separators=(",", ":"))}
