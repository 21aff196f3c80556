"""Names that the pages on operating use are names that there are: fields, reasons, metrics, events, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml

from diffusion_operator.status import reasons
from diffusion_router.core import Lookup
from diffusionpipeline.v1 import job_pb2, stage_pb2
from dpipe.simulate.reading import ScenarioFile
from testbed.documents import PAGES, ROOT, Page
from testbed.documents.pages import COMMANDS, FILES, PROGRAMS
from unit.chart import queries
from unit.documents import programs, schema

CONDITIONS = (*reasons.CONDITIONS.values(), *reasons.CACHE_CONDITIONS.values())
REASONS = {*reasons.CONDITIONS, *reasons.POD_PROBLEMS, *(one for known in CONDITIONS for one in known)}
WELL = {
    reasons.READY,
    reasons.NO_FAULT,
    reasons.AVAILABLE,
    reasons.APPLIED,
    reasons.REGISTRY_ANSWERS,
    reasons.REGISTERED,
    reasons.IN_USE,
    reasons.NONE_UNSCHEDULABLE,
    reasons.SCALERS_BOUND,
    reasons.NO_SCALERS,
    reasons.NO_FAULT,
    reasons.LOADED,
    reasons.PULLED,
    reasons.FOLLOWED,
    # On the way, or asked for.
    reasons.LOADING,
    reasons.PULLING,
    reasons.SURGING,
    reasons.IDLE,
    reasons.COMPLETE,
    reasons.ROLLING_OUT,
    reasons.SCALING,
    reasons.STARTING,
    reasons.SUSPENDING,
    reasons.ROUTER_NOT_ASKED,
    reasons.NO_PEERS,
    reasons.UP_TO_DATE,
    reasons.NOT_COMPARED,
    reasons.OUTSIDE_WINDOW,
    reasons.BUSY,
}
KUBERNETES = {"FailedCreate", "ImageVolume"}
EVENTS = {"Scaled", "Reverted"}
PHASES = {"Pending", "Progressing", "Ready", "Degraded", "Suspended", "Failed", "Unknown"}
KINDS = {
    "DiffusionPipeline",
    "DiffusionPipelineRoleScaler",
    "ModelCache",
    "DaemonSet",
    "PodMonitor",
    "StatefulSet",
    "Service",
}
OTHERS_FIELDS = {"observedGeneration", "allowVolumeExpansion", "minReplicaCount", "isRdma", "generation"} | {
    *("updateMode", "minReplicas", "minAllowed"),
}
VERTICAL_AUTOSCALERS = {"Initial", "Recreate", "InPlaceOrRecreate", "RequestsOnly"}
OPERATING = [page for page in PAGES if page.path not in ("README.md", "docs/resource.md")]
TROUBLE = next(page for page in PAGES if page.path == "docs/troubleshooting.md")


@pytest.fixture(scope="module")
def told() -> queries.Told:
    return queries.told_by_operators() | queries.told_by_pipelines()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_block_says_what_it_is_and_each_file_is_used(page: Page) -> None:
    for number, block in enumerate(page.blocks):
        if block.language in FILES:
            later = [one.text for one in page.blocks[number:] if one.language in COMMANDS]
            assert any(re.search(rf"[ =]{re.escape(block.file)}\b", text) for text in later), (
                f"{block}: nothing uses it"
            )
            assert not (ROOT / block.file).exists(), f"{block}: the repository has such a file"
        if block.language == "yaml":
            assert list(yaml.safe_load_all(block.text)), block


# Commands in passing


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_command_in_passing_is_one_that_a_block_runs(page: Page) -> None:
    """But for its names: `kubectl describe dpipe/x` is run of `digits`."""
    run = [_words(line) for one in PAGES for block in one.blocks for line in _commands(block.text)]
    for code in page.inline:
        words = _words(code)
        if words[:1] and words[0] in PROGRAMS and len(words) > 2:
            assert any(_same(words, other) for other in run), f"{page}: no block runs {code}"


def _commands(text: str) -> Iterator[str]:
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        yield from re.split(r" (?:\||&&|\|\||>) |; ", line)


def _words(command: str) -> list[str]:
    long = {"-n": "--namespace", "-o": "--output", "-f": "--filename", "-p": "--patch"}
    return [long.get(word, word).replace("=", " ").split(" ")[0] for word in command.split()]


def _same(mentioned: list[str], run: list[str]) -> bool:
    """Program and verb alike, and each flag and kind of object among the other's."""
    kinds = {word.partition("/")[0] for word in run}
    return mentioned[:2] == run[:2] and all(
        word in run if word.startswith("-") else word.partition("/")[0] in kinds or not word.islower() or "." in word
        for word in mentioned[2:4]
    )


# Names


def fields(page: Page) -> Iterator[str]:
    """Code that is a field, alone or with its value."""
    for code in page.inline:
        if found := re.fullmatch(r"([a-z][\w<>]*(?:\.[\w<>]+)+|[a-z]+[A-Z]\w*)(?:: .*)?", code):
            yield found[1]


@pytest.mark.parametrize("page", OPERATING, ids=str)
def test_fields_exist(page: Page) -> None:
    files = {block.file for block in page.blocks}
    known = schema.names() | OTHERS_FIELDS | (scenario_fields() if page.path == "docs/simulating.md" else set())
    wrong = [
        name
        for name in fields(page)
        if not (schema.has(name) if "." in name else name in known)
        and name not in files
        and not name.startswith("status.")
    ]
    assert wrong == []


def scenario_fields() -> set[str]:
    """Of the file that `dpipe simulate` reads."""
    found = ScenarioFile.model_json_schema()
    return {name for part in (found, *found["$defs"].values()) for name in part.get("properties", ())}


@pytest.mark.parametrize("page", OPERATING, ids=str)
def test_reasons_conditions_and_kinds_exist(page: Page) -> None:
    known = REASONS | PHASES | schema.words() | KUBERNETES | EVENTS | KINDS | VERTICAL_AUTOSCALERS
    used = {found[1] for code in page.inline if (found := re.fullmatch(r"([A-Z][a-z]\w+)(?:=(?:True|False))?", code))}
    assert used - known == set()


def test_troubleshooting_speaks_of_every_reason_that_is_trouble() -> None:
    mentioned = {word for code in TROUBLE.inline for word in re.findall(r"\w+", code)}
    assert REASONS - WELL - set(reasons.CONDITIONS) - mentioned == set()


@pytest.mark.parametrize("page", OPERATING, ids=str)
def test_metrics_exist(page: Page, told: queries.Told) -> None:
    used = {code for code in page.inline if re.fullmatch(r"(?:diffusion|workqueue|controller_runtime)_\w+", code)}
    assert used - told.keys() - queries.TARGET - {"diffusion_operator_dev_pipeline"} == set()


def test_what_logs_are_said_to_tell_is_told() -> None:
    section = Page(TROUBLE.path, "Logs")
    events = {code for code in section.inline if re.fullmatch(r"[a-z]+(?:_[a-z]+)+", code)} - {"job_id"}
    assert len(events) > 15
    assert events - programs.events() == set()


def test_the_kinds_of_failed_jobs_exist() -> None:
    kinds = {name.removeprefix("FAILURE_KIND_").lower() for name in dict(stage_pb2.FailureKind.items())}
    section = Page(TROUBLE.path, "Jobs fail or wait")
    rows = [line.split("|")[1] for line in section.prose.splitlines() if line.startswith("|")]
    named = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row)}
    assert {"deadline", "queue_full"} <= named
    assert named - kinds - programs.error_codes() == set()


def test_the_defaults_that_sizing_names_are_the_defaults() -> None:
    page = Page("docs/sizing.md").text
    named = {name: int(number) for name, number in re.findall(r"`(router\.\w+)` \((\d+)\)", page)}
    assert len(named) == 3
    assert named == {name: schema.default(name) for name in named}


# Queries


def asked() -> Iterator[tuple[str, str]]:
    """Where, and what: blocks, and what files give to those who ask Prometheus."""
    for page in PAGES:
        for block in page.blocks:
            if block.language == "promql":
                yield from ((f"{block}", query) for query in block.queries)
            elif block.language == "yaml":
                yield from ((f"{block}", query) for query in _queries_in(yaml.safe_load(block.text)))


def _queries_in(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("query", "metricsQuery", "seriesQuery"):
                # As prometheus-adapter fills in what an HPA says, and the namespace that it is in.
                matchers = 'namespace="paint",diffusion_operator_dev_pipeline="digits",role="denoiser"'
                yield inner.replace("<<.LabelMatchers>>", matchers)
            else:
                yield from _queries_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _queries_in(inner)


VALUES = {
    "role": {"encoder", "denoiser", "decoder"},
    "type": set(reasons.CONDITIONS),
    "namespace": {"default", "paint"},
    "met": {"true", "false"},
    "diffusion_operator_dev_pipeline": {"digits"},
    "result": {result.value for result in Lookup},
}
STATUS = {"True", "False", "Unknown"} | {
    name.removeprefix("JOB_STATUS_").lower() for name in dict(job_pb2.JobStatus.items())
}


@pytest.mark.parametrize("query", [pytest.param(query, id=f"{where} {query[:40]}") for where, query in asked()])
def test_a_query_asks_for_what_is_told(query: str, told: queries.Told) -> None:
    queries.labels(query, told)
    for selector in queries.selectors(query):
        for matcher in selector.matchers.matchers:
            assert matcher.value in {**VALUES, "status": STATUS}[matcher.name]


def test_the_queries_of_both_autoscalers_and_of_the_text_are_one() -> None:
    plain = {
        re.sub(r'namespace="\w+", ?|\s', "", query)
        for where, query in asked()
        if where.startswith("docs/scaling.md") and " + " in query
    }
    assert len(plain) == 1
