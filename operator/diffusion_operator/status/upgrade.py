"""UpgradeAvailable: whether this operator would make other pods, and what their pipeline waits for."""

from __future__ import annotations

from typing import Final

from diffusion_operator.api import Pipeline
from diffusion_operator.status import reasons
from diffusion_operator.status.finding import Finding, false, true, unknown
from diffusion_operator.status.observed import Observed

_NAMED: Final = 4

_WAITS: Final = {
    reasons.HELD: "it stays as it is until spec.update.to says {available}, or spec.update.policy another than Manual",
    reasons.OUTSIDE_WINDOW: "no window of spec.update.windows is open",
    reasons.NOT_READY: "it moves by itself only once it is Ready; spec.update.to: {available} moves it as it is",
    reasons.BUSY: "there are unfinished jobs",
    reasons.WAITS_FOR_TURN: "as many pipelines of the cluster move as may at once",
}
_REFUSED: Final = (
    "it went back from {available}: {refused}. Edit the resource, or have spec.update.to: {available} try again"
)


def upgrade_available(pipeline: Pipeline, observed: Observed) -> Finding:
    seen = observed.update
    if seen is None:
        return unknown(reasons.NOT_COMPARED, "not compared yet with what this operator would make")
    if not seen.available:
        return false(reasons.UP_TO_DATE, "pods are made as this operator makes them")
    if seen.waits == reasons.ROLLED_BACK:
        return true(seen.waits, _REFUSED.format(available=seen.available, refused=seen.refused))
    named = ", ".join(seen.changes[:_NAMED])
    more = f" and {len(seen.changes) - _NAMED} more" if len(seen.changes) > _NAMED else ""
    waits = _WAITS[seen.waits].format(available=seen.available)
    return true(seen.waits, f"operator {seen.operator} would change {named}{more}: {waits}")
