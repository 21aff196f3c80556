"""What the chart's README shows is what there is."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from unit.chart.charts import CHART, EVERYTHING, PROMETHEUS, VALUES, render

TEXT = (CHART / "README.md").read_text()
EXAMPLES = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda values: ", ".join(values))
def test_its_values_are_accepted(values: dict[str, Any]) -> None:
    assert render(values, apis=PROMETHEUS).objects


def test_it_tells_of_every_alert() -> None:
    groups = render(EVERYTHING, apis=PROMETHEUS).one("PrometheusRule")["spec"]["groups"]
    assert re.findall(r"^\| (Diffusion\w+) \|", TEXT, re.MULTILINE) == [
        rule["alert"] for group in groups for rule in group["rules"]
    ]


def test_the_values_that_it_names_exist() -> None:
    for name in re.findall(r"`(monitoring\.[\w.]+|leaderElection|watchNamespaces)`", TEXT):
        value: Any = VALUES
        for key in name.split("."):
            value = value[key]


def test_what_it_links_to_is_there() -> None:
    assert all((CHART / target).exists() for target in re.findall(r"\]\(([^)]+)\)", TEXT))
