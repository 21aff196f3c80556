"""Pages are cut into blocks as `documents` says, and run as a reader would run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.documents import CLUSTER, E2E, Deadlines, Failed, Page, PageError, run_blocks
from testbed.documents.running import missing_line
from testbed.processes import is_alive
from testbed.waiting import until

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


def page(folder: Path, text: str) -> Page:
    file = folder / "page.md"
    file.write_text(text)
    return Page(str(file))


def run(folder: Path, text: str, where: str = CLUSTER, **options: object) -> Path:
    """The folder in which the page's blocks ran."""
    work = folder / "work"
    work.mkdir()
    run_blocks(page(folder, text), where, ENVIRONMENT, work, **options)  # type: ignore[arg-type]
    return work


def test_blocks_have_their_section_marker_and_what_they_show(tmp_path: Path) -> None:
    found = page(
        tmp_path,
        "## One\n```sh\nls\n```\n\n```\na\n```\n## Two\n<!-- run: e2e -->\n```sh\nls\n```\n"
        "<!-- run: nowhere: no printer -->\n```sh\nlpr\n```\n<!-- file: a.yaml -->\n```yaml\na: 1\n```\n",
    ).blocks
    assert [(one.section, one.where, one.reason, one.file, one.shown) for one in found] == [
        ("One", "cluster", "", "", "a\n"),
        ("Two", "e2e", "", "", ""),
        ("Two", "nowhere", "no printer", "", ""),
        ("Two", "", "", "a.yaml", ""),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "```yaml\na: 1\n```\n",
        "```ruby\nputs 1\n```\n",
        "```\nwhat nobody printed\n```\n",
        "<!-- run: somewhere -->\n```sh\nls\n```\n",
        "<!-- run: nowhere -->\n```sh\nls\n```\n",
        "<!-- walk: e2e -->\n```sh\nls\n```\n",
        "```python\nprint()\n```\n",
        "```sh\nls\n",
        "text\n\n    ls\n",
    ],
)
def test_a_block_of_which_nobody_can_tell_what_it_is_is_a_fault(tmp_path: Path, text: str) -> None:
    with pytest.raises(PageError, match=r"page\.md:\d+: "):
        _ = page(tmp_path, text).blocks


def test_blocks_run_in_order_where_they_are_for_with_the_pages_files(tmp_path: Path) -> None:
    text = (
        "<!-- file: name -->\n```yaml\nPORT\n```\n```sh\ncp name first\n```\n"
        "<!-- run: e2e -->\n```sh\ntouch second\n```\n"
        "<!-- run: nowhere: never -->\n```sh\ntouch third\n```\n"
    )
    work = run(tmp_path, text, replacing={"PORT": "8001"})
    assert (work / "first").read_text() == "8001\n"
    assert (work / "charts").is_dir()
    assert not (work / "second").exists()
    run_blocks(page(tmp_path, text), (CLUSTER, E2E), ENVIRONMENT, work)
    assert (work / "second").exists()
    assert not (work / "third").exists()


@pytest.mark.parametrize("text", ["false; true", "false | true", "echo $nothing"])
def test_a_command_that_fails_fails_its_page_and_says_where(tmp_path: Path, text: str) -> None:
    with pytest.raises(Failed, match=r"page\.md:1 ended with \d+:\n"):
        run(tmp_path, f"```sh\n{text}\n```\n")


def test_a_block_that_does_not_end_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    text = "```sh\nsleep 1000 & echo $! >number; wait\n```\n"
    with pytest.raises(Failed, match=r"did not end within 1 s"):
        run(tmp_path, text, deadlines=Deadlines(block=1))
    until_ended(int((tmp_path / "work/number").read_text()))


def test_what_stays_in_the_background_runs_for_the_blocks_after_it_and_no_longer(tmp_path: Path) -> None:
    work = run(tmp_path, "```sh\nsleep 1000 & echo $! >number\n```\n```sh\nkill -0 $(cat number)\n```\n")
    until_ended(int((work / "number").read_text()))


def test_what_a_page_shows_has_to_be_printed(tmp_path: Path) -> None:
    run(tmp_path, "```sh\nprintf 'A  B\\nskipped\\nx 12s\\n'\n```\n```\nA B\nx   3m4s\n```\n")
    with pytest.raises(Failed, match=r"'two' is missing"):
        run_blocks(page(tmp_path, "```sh\necho one\n```\n```\ntwo\n```\n"), CLUSTER, ENVIRONMENT, tmp_path / "work")


def test_what_is_read_at_last_is_read_until_it_is_as_shown(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "kubectl").write_text("#!/bin/bash\necho x >>times; wc -l <times\n")
    (tools / "kubectl").chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    text = "```sh\necho begun\nkubectl get \\\n  something\n```\n```\nbegun\n3\n```\n"
    run_blocks(page(tmp_path, text), CLUSTER, {"PATH": f"{tools}:/usr/bin:/bin"}, work)
    assert (work / "times").read_text() == "x\n" * 3
    with pytest.raises(Failed, match="is missing"):
        run_blocks(
            page(tmp_path, text), CLUSTER, {"PATH": f"{tools}:/usr/bin:/bin"}, work, deadlines=Deadlines(shown=0.5)
        )


@pytest.mark.parametrize(
    ("shown", "printed", "missing"),
    [
        ("a\nb", "a\nb", None),
        ("b\na", "a\nb", "a"),
        ("a … c", "a anything at all c", None),
        ("…", "", None),
        ("pod-…-1 ok", "pod-77-1 ok", None),
        ("NAME 41s", "NAME 2d3h", None),
        ("NAME 41s", "NAME soon", "NAME 41s"),
        ("a.b", "axb", "a.b"),
    ],
)
def test_lines_are_compared_in_substance(shown: str, printed: str, missing: str | None) -> None:
    assert missing_line(shown, printed) == missing


def until_ended(process: int) -> None:
    until(lambda: not is_alive(process), 10, f"process {process} has ended")
