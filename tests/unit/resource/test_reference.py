"""The reference in docs/ is what the definitions say."""

from __future__ import annotations

import re
from pathlib import Path

from diffusion_operator.api import crd

DOCS = Path(__file__).parents[3] / "docs"


def test_the_reference_has_every_field_of_spec_and_its_links_lead_somewhere() -> None:
    text = (DOCS / "resource.md").read_text()
    for plural in crd.PLURALS:
        for field in crd.schema(plural)["properties"]["spec"]["properties"]:
            assert f"| `{field}` |" in text
    anchors = {re.sub(r"[^a-z0-9_-]", "", line.lower()) for line in text.splitlines() if line.startswith("### ")}
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert links
    assert links <= anchors
