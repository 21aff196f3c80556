"""Whether the API server serves resource definitions that this operator understands.

Helm installs definitions once and never upgrades them. An operator that is newer than its definitions would read
fields that the API server drops without a word, so it says so and does not start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import structlog

from diffusion_operator.api import VERSION, crd
from diffusion_operator.cluster.client import ApiError, Cluster
from diffusion_operator.cluster.kinds import DEFINITION

_NAMED: Final = 5

log = structlog.get_logger()


class DefinitionsOutdated(Exception):
    """A definition is missing, or lacks fields. The message has the remedy."""


async def check_definitions(cluster: Cluster) -> None:
    """Raises DefinitionsOutdated, and ApiError or Unreachable if the API server can't say now."""
    for plural in crd.PLURALS:
        wanted = crd.definition(plural)
        name = wanted["metadata"]["name"]
        try:
            served = await cluster.get(DEFINITION, None, name)
        except ApiError as error:
            if error.status == 403:
                log.warning("definitions_not_checked", definition=name, error=str(error))
                continue
            if error.status == 404:
                raise DefinitionsOutdated(f"{name} is not there: kubectl apply -f crds/") from None
            raise
        missing = list(_missing(_schema(wanted), _schema(served)))
        if missing:
            shown = ", ".join(missing[:_NAMED]) + (f" and {len(missing) - _NAMED} more" if missing[_NAMED:] else "")
            raise DefinitionsOutdated(
                f"{name} as the API server has it lacks {shown}: it is of another release; kubectl apply -f crds/ of "
                "this release, then start the operator again"
            )


def _schema(definition: Mapping[str, Any]) -> Mapping[str, Any]:
    for version in definition["spec"]["versions"]:
        if version["name"] == VERSION:
            found: Mapping[str, Any] = version["schema"]["openAPIV3Schema"]
            return found
    return {}


def _missing(wanted: Mapping[str, Any], served: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Fields that `served` lacks, outermost only."""
    theirs = served.get("properties", {})
    for name, field in wanted.get("properties", {}).items():
        inner = f"{path}.{name}" if path else name
        if name not in theirs:
            yield inner
        else:
            yield from _missing(field, theirs[name], inner)
    for part in ("items", "additionalProperties"):
        if isinstance(wanted.get(part), Mapping):
            yield from _missing(wanted[part], served.get(part) or {}, f"{path}[]")
