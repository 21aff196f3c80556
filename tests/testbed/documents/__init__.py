"""The documentation as what it is to its readers: pages of commands, of what they show, and of files to save.

`pages` cuts a page into blocks, `running` runs them. A block is fenced by three backticks; its language says what it
is:

    sh          commands for bash, which run where the marker says
    python      a program, likewise
    yaml, json  a file: its marker names it, and a later block of commands uses it
    promql      queries, an empty line apart
    (none)      what the block of commands or the program right before it shows

A marker is an HTML comment on the line before, which readers do not see:

    <!-- run: e2e -->                needs pods that run: a port-forward, logs, pictures
    <!-- run: nowhere: reason -->    can't run in any test
    <!-- file: values.yaml -->

Commands without a marker run against a real control plane whose pods are fake (`tests/cluster/docs`).
"""

from __future__ import annotations

from testbed.documents.pages import CLUSTER, E2E, NOWHERE, PAGES, ROOT, Block, Page, PageError
from testbed.documents.running import Deadlines, Failed, run_blocks

__all__ = [
    "CLUSTER",
    "E2E",
    "NOWHERE",
    "PAGES",
    "ROOT",
    "Block",
    "Deadlines",
    "Failed",
    "Page",
    "PageError",
    "run_blocks",
]
