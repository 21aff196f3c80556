"""What a Pod object says of itself."""

from __future__ import annotations

from testbed.controlplane.client import JSON


def is_ready(pod: JSON) -> bool:
    return any(
        (condition["type"], condition["status"]) == ("Ready", "True")
        for condition in pod["status"].get("conditions", ())
    )
