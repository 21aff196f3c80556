"""The resources in `examples/`, which users copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

EXAMPLES: Final = Path(__file__).parents[2] / "examples"


def resource(example: str, **changes: Any) -> dict[str, Any]:
    """An example with fields of its spec replaced: `roles__denoiser__replicas=2`."""
    document: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{example}.yaml").read_text())
    for path, value in changes.items():
        *parents, name = path.split("__")
        target = document["spec"]
        for parent in parents:
            target = target.setdefault(parent, {})
        target[name] = value
    return document
