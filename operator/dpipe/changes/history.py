"""What a pipeline's pods were made of before, and how to go back there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.table import Table

from diffusion_operator.api import Role
from diffusion_operator.render import names
from diffusion_operator.update.revision import LABEL, Revision, newest_first
from dpipe.changes.kubectl import ClusterError, Kubectl, Object

PLURAL: Final = "diffusionpipelines.diffusion-operator.dev"
# How many pods there are is not gone back to, as with `kubectl rollout undo`.
_STAYS: Final = ("replicas", "scaling")


@dataclass(frozen=True)
class Way:
    """From what a pipeline is to an earlier revision of it."""

    to: Revision
    spec: dict[str, Any]
    """The resource's, as it is to be."""


def pipeline_of(cluster: Kubectl, name: str) -> Object:
    """Raises ClusterError."""
    live = cluster.get(PLURAL, name)
    if live is None:
        raise ClusterError(f"there is no DiffusionPipeline {name} in this namespace")
    return live


def revisions_of(cluster: Kubectl, live: Object) -> list[Revision]:
    """The newest first. Raises ClusterError, also if there is none."""
    metadata = live["metadata"]
    found = newest_first(
        item
        for item in cluster.every(
            "controllerrevisions.apps", selector=f"{names.PIPELINE_LABEL}={metadata['name']},{LABEL}"
        )
        if any(owner["uid"] == metadata["uid"] for owner in item["metadata"].get("ownerReferences", ()))
    )
    if not found:
        raise ClusterError(
            f"{metadata['namespace']}/{metadata['name']}: no ControllerRevision says of what its pods are made: has an "
            "operator that writes them seen it?"
        )
    return found


def way_back(live: Object, revisions: Sequence[Revision], number: int | None) -> Way:
    """To the revision of this number; None: to the latest by which pods were made of something else.

    Raises ClusterError if there is none.
    """
    present, earlier = revisions[0], revisions[1:]
    others = [each for each in earlier if each.digest != present.digest]
    if number is not None:
        others = [each for each in earlier if each.number == number]
    if not others:
        kept = ", ".join(str(each.number) for each in earlier) or "none"
        which = f"revision {number}" if number is not None else "a revision with other pods"
        raise ClusterError(f"{live['metadata']['name']}: there is no {which} to go back to; kept are: {kept}")
    to = others[0]
    roles = {
        role: {**spec, **{field: now[field] for field in _STAYS if field in now}}
        for role, spec in to.spec["roles"].items()
        if (now := live["spec"]["roles"].get(role, {})) is not None
    }
    update = {**live["spec"]["update"], "to": to.digest}
    return Way(to, {**to.spec, "roles": roles, "update": update})


def go(cluster: Kubectl, live: Object, way: Way) -> None:
    """Raises ClusterError, also if somebody has edited the resource meanwhile."""
    version = {"op": "test", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]}
    cluster.patch(PLURAL, live["metadata"]["name"], [version, {"op": "replace", "path": "/spec", "value": way.spec}])


def revision_table(revisions: Sequence[Revision]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("REVISION", "DIGEST", "GENERATION", "IMAGE", "NOTE"):
        table.add_column(title)
    for index, revision in enumerate(revisions):
        note = _note(revision) if index == 0 else ""
        generation, image = revision.templates.generation, _image(revision)
        table.add_row(str(revision.number), revision.digest, generation, image, note)
    return table


def _image(revision: Revision) -> str:
    containers = revision.templates.pods[Role.DENOISER]["spec"]["containers"]
    return next((str(each.get("image", "")) for each in containers if each["name"] == names.MAIN), "")


def _note(revision: Revision) -> str:
    if revision.candidate is not None:
        return f"serves; generation {revision.candidate.generation} takes over"
    if revision.refused is not None:
        return f"serves; gone back from {revision.refused.digest}: {revision.refused.why}"
    return "serves"
