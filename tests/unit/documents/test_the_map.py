"""Who follows a page's links gets somewhere, and what the map says of tests and import rules is so."""

from __future__ import annotations

import re
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from testbed.documents import ROOT, Page

FOLDERS = ("charts", "docs", "tests", "worker")
EVERY_PAGE = [
    Page(str(path.relative_to(ROOT)))
    for path in sorted((*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))))
]
MAP = Page("docs/architecture.md", "Invariants")
SOURCES = ("benchmarks", "docs", "operator", "proto", "tests", "worker")
# `[scheduler.py](…/scheduler.py) `assign``: what of the file is meant.
NAMED = re.compile(r"\]\(([^)\s]+\.py)\)\s+`(\w+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# In prose and messages, and in the names of tests.
CITATION = re.compile(r"\bI[1-9]\d?\b|(?<=test_)i[1-9]\d?(?=_)")


def links(text: str) -> list[str]:
    return [target for target in LINK.findall(text) if not target.startswith(("http://", "https://"))]


def invariants() -> dict[str, list[Path]]:
    """The tests that the map names for each."""
    rows = re.findall(r"^\| (I\d+) \|(.*)$", MAP.prose, re.MULTILINE)
    return {number: [(ROOT / "docs" / target).resolve() for target in links(row)] for number, row in rows}


@pytest.mark.parametrize("page", EVERY_PAGE, ids=str)
def test_what_a_page_links_to_is_there(page: Page) -> None:
    here = (ROOT / page.path).parent
    for target in links(page.prose):
        path, _, anchor = target.partition("#")
        file = (here / path).resolve() if path else ROOT / page.path
        assert file.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in _anchors(Page(str(file.relative_to(ROOT)))), f"{page}: {target}"


@pytest.mark.parametrize("page", EVERY_PAGE, ids=str)
def test_what_a_page_names_of_a_file_that_it_links_to_is_in_it(page: Page) -> None:
    for target, name in NAMED.findall(page.prose):
        text = ((ROOT / page.path).parent / target).read_text(encoding="utf-8")
        assert re.search(rf"^ *(?:(?:async )?def|class) {name}\b|^{name}\b", text, re.MULTILINE), f"{target}: {name}"


def test_each_invariant_has_tests_that_name_it() -> None:
    found = invariants()
    assert len(found) >= 11
    for number, tests in found.items():
        assert tests, f"{number}: the map names no test"
        for test in tests:
            assert number in _cited(test), f"{number}: {test.relative_to(ROOT)} does not say that it holds it"


def test_each_invariant_that_anything_names_is_on_the_map() -> None:
    named = {
        number
        for folder in SOURCES
        for suffix in ("py", "proto")
        for path in (ROOT / folder).rglob(f"*.{suffix}")
        if not path.stem.endswith(("_pb2", "_pb2_grpc"))
        for number in _cited(path)
    }
    assert named <= invariants().keys()


def test_import_rules_of_each_kind_are_drawn() -> None:
    imports = _imports()
    never = {"name": "a is alone", "type": "forbidden", "source_modules": ["a"], "forbidden_modules": ["b", "torch"]}
    order = {"name": "In order", "type": "layers", "containers": ["b"], "layers": ["top", "left | right", "low"]}
    circles = {"name": "No circles", "type": "acyclic_siblings", "ancestors": ["a"]}
    text = imports.drawn({"root_packages": ["a", "b"], "contracts": [never, order, circles]})
    between, within = text.split("## The contracts")
    assert "b --> a" in between
    assert "a --> b" not in between
    for line in (
        'box0["a"]',
        'box1["b, torch"]',
        'box0 --x|"a is alone"| box1',
        'box3["b.left, b.right"]',
        'box2 -->|"In order"| box3 --> box4',
        'box0 -.- within_box0{{"No circles"}}',
    ):
        assert line in within
    with pytest.raises(imports.UnknownContract, match="'Odd' is of type 'protected'"):
        imports.drawn({"root_packages": [], "contracts": [{"name": "Odd", "type": "protected"}]})


def _anchors(page: Page) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _cited(path: Path) -> set[str]:
    return {found.upper() for found in CITATION.findall(path.read_text(encoding="utf-8"))}


def _imports() -> ModuleType:
    spec = util.spec_from_file_location("imports_page", ROOT / "docs/imports.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
