"""docs/models.md tells what came of each class that is tried, and tells it in words."""

from __future__ import annotations

import re

from testbed.documents import ROOT
from testbed.zoo.classes.catalogue import CLASSES
from testbed.zoo.classes.page import rows_of

ROWS = rows_of((ROOT / "docs/models.md").read_text(encoding="utf-8"))


def test_every_class_that_is_tried_has_its_row_and_no_other():
    assert sorted(ROWS) == sorted(CLASSES)
    assert len(ROWS) >= 90


def test_no_row_tells_of_an_exception_a_difference_or_a_folder_of_this_machine():
    wrong = re.compile(r"\b\w*(Error|Exception)\b|Traceback|\| NO\b|/tmp/")
    assert [row for row in ROWS.values() if wrong.search(row)] == []


def test_what_is_served_is_told_whole_and_what_is_refused_with_its_reason():
    cells = {name: [cell.strip() for cell in row.split("|")[2:-1]] for name, row in ROWS.items()}
    served = {name: told for name, told in cells.items() if len(told) > 1}
    refused = {name: told[0] for name, told in cells.items() if len(told) == 1}

    assert all(way in ("modular", "replay") and makes in ("image", "video") for way, makes, *_ in served.values())
    assert all(len(sentence.split()) > 5 for sentence in refused.values())
