"""docs/conditions.md explains each condition and each of its reasons, and none that do not exist."""

from __future__ import annotations

import re
from pathlib import Path

from diffusion_operator.status import reasons

PAGE = Path(__file__).parents[3] / "docs" / "conditions.md"
CACHE = {reason for known in reasons.CACHE_CONDITIONS.values() for reason in known}
WITH_REASONS = {**reasons.CONDITIONS, "Pods": reasons.POD_PROBLEMS, "ModelCache": CACHE}


def documented() -> dict[str, list[str]]:
    """The reasons of each section: the words in code in its tables' first column."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        title, _, body = section.partition("\n")
        rows = (line.split("|")[1] for line in body.splitlines() if line.startswith("| `"))
        found[title] = [word for row in rows for word in re.findall(r"`(\w+)`", row)]
    return found


def test_every_condition_has_its_reasons_documented_once_and_no_others() -> None:
    page = {title: sorted(words) for title, words in documented().items() if words}
    assert page == {title: sorted(words) for title, words in WITH_REASONS.items()}


def test_every_condition_of_a_pipeline_is_in_the_first_table() -> None:
    head = PAGE.read_text().partition("\n## ")[0]
    listed = re.findall(r"^\| \[(\w+)\]\(#\w+\)", head, flags=re.MULTILINE)
    assert listed == [kind for kind in reasons.CONDITIONS if kind != reasons.BOUND]


def test_reasons_have_the_form_that_kubernetes_wants() -> None:
    for known in reasons.CONDITIONS.values():
        for reason in known:
            assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", reason)
