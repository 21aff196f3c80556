"""How far a pod is that comes up, as far as Kubernetes tells: it has no word for an image that is being pulled."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from diffusion_operator.render import names


class Phase(StrEnum):
    """In the order in which a pod goes through them. Also the fields of `status.roles.<role>.starting`."""

    SCHEDULING = "scheduling"
    """It has no node yet."""
    PREPARING = "preparing"
    """Its node gets volumes and images, and runs init containers."""
    LOADING = "loading"
    """Its process runs, and is not ready yet: it loads what its roles load."""


WORDS: Final = {
    Phase.SCHEDULING: "without a node yet",
    Phase.PREPARING: "getting image and volumes",
    Phase.LOADING: "loading",
}


def phase(pod: Mapping[str, Any]) -> Phase | None:
    """None: it is ready, has ended, or is leaving."""
    status = pod.get("status", {})
    if "deletionTimestamp" in pod["metadata"] or status.get("phase") in ("Succeeded", "Failed"):
        return None
    conditions = {found["type"]: found["status"] for found in status.get("conditions") or ()}
    if conditions.get("Ready") == "True":
        return None
    if not pod.get("spec", {}).get("nodeName"):
        return Phase.SCHEDULING
    running = any(
        item["name"] == names.MAIN and "running" in item.get("state", {})
        for item in status.get("containerStatuses") or ()
    )
    return Phase.LOADING if running else Phase.PREPARING
