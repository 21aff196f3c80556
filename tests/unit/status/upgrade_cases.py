"""Cases of UpgradeAvailable."""

from __future__ import annotations

from diffusion_operator.status.observed import UpdateObserved
from unit.status.seen import case, observed

CHANGES = ("spec.containers[main].image (encoder, router)",)


def waiting(reason: str, *changes: str) -> UpdateObserved:
    return UpdateObserved(
        operator="9.1", current="c" * 10, available="a" * 10, changes=changes or CHANGES, waits=reason
    )


GONE_BACK = UpdateObserved(
    operator="9.1", current="c" * 10, available="a" * 10, waits="RolledBack", refused="3 of 4 tasks failed"
)


CASES = [
    case(observed(), "UpgradeAvailable", "False", "UpToDate", "as this operator makes them", id="nothing to do"),
    case(observed(update=None), "UpgradeAvailable", "Unknown", "NotCompared", "not compared yet", id="not compared"),
    case(
        observed(update=waiting("Held")),
        "UpgradeAvailable",
        "True",
        "Held",
        "operator 9.1 would change spec.containers[main].image (encoder, router): it stays as it is until "
        "spec.update.to says aaaaaaaaaa, or spec.update.policy another than Manual",
        id="held",
    ),
    case(
        observed(update=waiting("Held", *(f"decoder: {letter}" for letter in "abcdef"))),
        "UpgradeAvailable",
        "True",
        "Held",
        "decoder: a, decoder: b, decoder: c, decoder: d and 2 more:",
        id="many changes",
    ),
    *(
        case(observed(update=waiting(reason)), "UpgradeAvailable", "True", reason, words, id=reason)
        for reason, words in {
            "OutsideWindow": "no window of spec.update.windows is open",
            "NotReady": "it moves by itself only once it is Ready; spec.update.to: aaaaaaaaaa moves it as it is",
            "Busy": "there are unfinished jobs",
            "WaitsForTurn": "as many pipelines of the cluster move as may at once",
        }.items()
    ),
    case(
        observed(update=GONE_BACK),
        "UpgradeAvailable",
        "True",
        "RolledBack",
        "it went back from aaaaaaaaaa: 3 of 4 tasks failed. Edit the resource, or have spec.update.to: aaaaaaaaaa try",
        id="gone back",
    ),
]
