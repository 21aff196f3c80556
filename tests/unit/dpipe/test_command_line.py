"""The command line answers at once and in words: what is wrong, and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from diffusion_operator.api import load_pipeline
from diffusion_operator.render import render
from dpipe.app import app

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples/digits.yaml"


def dpipe(*arguments: str, given: str | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), input=given, catch_exceptions=False)
    return result.exit_code, result.output


def test_help_names_every_command() -> None:
    _, text = dpipe("--help")
    commands = "up generate peers jobs check convert render diff revisions rollback simulate demo"
    for command in commands.split():
        assert f"\n  {command} " in text


def test_help_loads_none_of_the_heavy_libraries() -> None:
    heavy = {"torch", "httpx", "grpc", "cel", "jsonschema", "yaml", "PIL", "diffusion_operator"}
    code = f"import sys, dpipe.app; print(sorted({heavy!r} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "command", [("check", "digits"), ("convert", "my.safetensors", "made")], ids=lambda one: one[0]
)
def test_commands_on_models_say_where_they_run(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, text = dpipe(*command)
    assert code == 1
    assert "pip install 'diffusion-operator[worker]'" in text
    assert f"diffusion_worker.model.{command[0]}" in text


def test_render_prints_what_would_be_applied() -> None:
    code, text = dpipe("render", "-f", str(EXAMPLE))
    assert code == 0
    kinds = [document["kind"] for document in yaml.safe_load_all(text)]
    assert (kinds.count("StatefulSet"), kinds.count("Service")) == (4, 5)


def test_diff_of_two_files_says_what_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "changed.yaml"
    file.write_text(EXAMPLE.read_text().replace("poolSize: 64Mi", "poolSize: 96Mi"))
    code, text = dpipe("diff", "-f", str(file), "--from", str(EXAMPLE))
    assert code == 1
    assert text.splitlines()[:2] == [
        "default/digits: spec.transport.poolSize",
        "  digits-encoder: 1 of 1 pod replaced, 1 at once; not known how long a start takes; no longer than 32 min",
    ]
    assert dpipe("diff", "-f", str(EXAMPLE), "--from", str(EXAMPLE)) == (0, "default/digits\n  nothing changes\n")


def test_diff_refuses_what_would_do_nothing() -> None:
    file = str(EXAMPLE)
    assert dpipe("diff", "-f", file, "--from", file, "-A") == (2, "--all-namespaces does not go with --from\n")
    assert dpipe("diff", "-f", file, "-A") == (2, "--all-namespaces does not go with --file\n")
    assert dpipe("diff", "--server-side") == (2, "--server-side goes with --file\n")


def test_diff_without_kubectl_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert dpipe("diff", "-f", str(EXAMPLE)) == (2, "this asks the cluster by kubectl, which is not on PATH\n")


PLATFORM = """
imageRegistry: mirror.example:5000
commonLabels: {team: paint}
pods:
  env: [{name: HTTPS_PROXY, value: theirs}, {name: BOTH, value: all}]
  tolerations: [{key: spot, operator: Exists}]
workers:
  env: [{name: BOTH, value: workers}]
gpuWorkers: {runtimeClassName: nvidia}
"""


def test_render_tells_what_comes_of_the_platform_and_of_which_of_its_fields(tmp_path: Path) -> None:
    file = tmp_path / "platform.yaml"
    file.write_text(PLATFORM)
    code, text = dpipe("render", "-f", str(EXAMPLE), "--platform", str(file))
    assert code == 0
    documents = dict(zip(map(_name, yaml.safe_load_all(text)), text.split("\n---\n"), strict=True))
    told = {
        name: [line.removeprefix("#   ") for line in document.splitlines() if line.startswith("#   ")]
        for name, document in documents.items()
    }
    assert told["Service/digits-router-api"] == ["metadata.labels.team: commonLabels"]
    pods, main = "spec.template.spec", "spec.template.spec.containers[main]"
    common = {
        f"{main}.image: imageRegistry",
        "metadata.labels.team: commonLabels",
        "spec.template.metadata.labels.team: commonLabels",
        f"{main}.env[HTTPS_PROXY]: pods.env",
        f"{pods}.tolerations: pods.tolerations",
    }
    assert set(told["StatefulSet/digits-router"]) == common | {f"{main}.env[BOTH]: pods.env"}
    assert set(told["StatefulSet/digits-decoder"]) == common | {f"{main}.env[BOTH].value: workers.env"}
    # Nothing of a generation that has another name.
    assert [lines for name, lines in told.items() if name.startswith("ConfigMap/")] == [
        ["metadata.labels.team: commonLabels"]
    ]


def _name(document: dict[str, Any]) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def test_what_a_pipeline_says_itself_does_not_come_of_the_platform(tmp_path: Path) -> None:
    resource = yaml.safe_load(EXAMPLE.read_text())
    resource["spec"] |= {"commonLabels": {"team": "film"}}
    platform = tmp_path / "platform.yaml"
    platform.write_text("commonLabels: {team: paint}")
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump(resource))
    _, text = dpipe("render", "-f", str(file), "--platform", str(platform))
    assert "#" not in text
    assert text == dpipe("render", "-f", str(file))[1]


def test_faults_of_a_platform_are_listed_with_file_and_path(tmp_path: Path) -> None:
    file = tmp_path / "platform.yaml"
    file.write_text("workers: {env: [{nam: A}]}")
    code, text = dpipe("render", "-f", str(EXAMPLE), "--platform", str(file))
    assert code == 1
    assert f"{file}: workers.env[0].nam: unknown field; did you mean name?" in text.splitlines()
    assert dpipe("render", "-f", str(EXAMPLE), "--platform", "nowhere.yaml") == (
        1,
        "nowhere.yaml: No such file or directory\n",
    )


def test_diff_knows_of_the_platform(tmp_path: Path) -> None:
    """What the platform says already, a pipeline that comes to say it too does not change."""
    platform, said = tmp_path / "platform.yaml", tmp_path / "said.yaml"
    platform.write_text("imagePullSecrets: [{name: mirror}]")
    resource = yaml.safe_load(EXAMPLE.read_text())
    resource["spec"] |= {"imagePullSecrets": [{"name": "mirror"}]}
    said.write_text(yaml.safe_dump(resource))
    files = ("-f", str(said), "--from", str(EXAMPLE))
    code, text = dpipe("diff", *files)
    assert code == 1
    assert "digits-encoder: 1 of 1 pod replaced" in text
    _, text = dpipe("diff", *files, "--platform", str(platform))
    assert "replaced" not in text
    platform.write_text("imagePullSecret: []")
    code, text = dpipe("diff", *files, "--platform", str(platform))
    assert code == 2
    assert "unknown field; did you mean imagePullSecrets?" in text


def test_a_resource_can_come_from_standard_input() -> None:
    code, _ = dpipe("render", "-f", "-", given=EXAMPLE.read_text())
    assert code == 0


def test_faults_of_a_resource_are_listed_with_file_and_path(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(EXAMPLE.read_text().replace("replicas: 1", "replicas: -1", 1).replace("poolSize", "poolsize"))
    code, text = dpipe("up", "-f", str(file))
    assert code == 1
    assert text.splitlines() == [
        f"{file}: spec.transport.poolsize: unknown field; did you mean poolSize?",
        f"{file}: spec.roles.encoder.replicas: must be at least 0, not -1",
    ]


SECOND = EXAMPLE.read_text().replace("name: digits", "name: letters\n  namespace: art")
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: art}\n"
CONFIG = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n"


def listed(*texts: str) -> str:
    return yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [yaml.safe_load(text) for text in texts]})


@pytest.mark.parametrize(
    "text",
    [
        "\n---\n".join((SERVICE, EXAMPLE.read_text(), "# nothing", CONFIG, SECOND)),
        listed(SERVICE, EXAMPLE.read_text(), CONFIG, SECOND),
        listed(SERVICE, EXAMPLE.read_text()) + "---\n" + CONFIG + "---\n" + listed(SECOND),
    ],
    ids=["documents", "a list", "both"],
)
def test_each_pipeline_of_a_file_is_rendered_and_what_else_is_in_it_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(text)
    result = CliRunner().invoke(app, ["render", "-f", str(file)], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stderr == f"{file}: passed over Service art/web, ConfigMap settings\n"
    of_each = {"digits": yaml.safe_load(EXAMPLE.read_text()), "letters": yaml.safe_load(SECOND)}
    expected = [child for resource in of_each.values() for child in render(load_pipeline(resource))]
    assert list(yaml.safe_load_all(result.stdout)) == expected
    for name in ("letters", "art/letters"):
        chosen = CliRunner().invoke(app, ["render", "-f", str(file), "--pipeline", name], catch_exceptions=False)
        assert list(yaml.safe_load_all(chosen.stdout)) == list(render(load_pipeline(of_each["letters"])))


def test_of_several_pipelines_one_must_be_chosen_to_be_run(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(EXAMPLE.read_text() + "---\n" + SECOND)
    assert dpipe("up", "-f", str(file)) == (
        1,
        f"{file}: has 2 DiffusionPipelines, digits, art/letters: say which by --pipeline\n",
    )
    assert dpipe("up", "-f", str(file), "--pipeline", "numbers") == (
        1,
        f"{file}: has no DiffusionPipeline numbers: there is digits, art/letters\n",
    )


def test_the_chosen_one_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file, ran = tmp_path / "all.yaml", []
    file.write_text(listed(SERVICE, EXAMPLE.read_text(), SECOND))
    monkeypatch.setattr("dpipe.up.foreground.run_up", lambda local, *_, **__: ran.extend(local.pods))
    code, said = dpipe("up", "-f", str(file), "--pipeline", "letters", "--port", "0", "--data", str(tmp_path / "data"))
    assert (code, said) == (0, f"{file}: passed over Service art/web\n")
    assert sorted(ran) == ["letters-decoder-0", "letters-denoiser-0", "letters-encoder-0", "letters-router-0"]


def test_faults_name_the_pipeline_that_has_them_where_there_are_several(tmp_path: Path) -> None:
    file = tmp_path / "all.yaml"
    file.write_text(EXAMPLE.read_text() + "---\n" + SECOND.replace("threads: 1", "threads: 0", 1))
    words = f"{file}: art/letters: spec.roles.encoder.threads: must be at least 1, not 0\n"
    assert dpipe("render", "-f", str(file)) == (1, words)
    assert dpipe("render", "-f", str(file), "--pipeline", "digits")[0] == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is not YAML"),
        ("", "has no DiffusionPipeline: give a file with one"),
        (
            f"{SERVICE}---\n{CONFIG}",
            "has no DiffusionPipeline, but Service art/web, ConfigMap settings: give a file with",
        ),
        (SERVICE, "kind: must be DiffusionPipeline, not 'Service'"),
        (EXAMPLE.read_text() + "\n---\n" + EXAMPLE.read_text(), "has digits twice: keep one of the two"),
        (EXAMPLE.read_text() + "\n---\njust text", "document 2 is no object with apiVersion, kind, metadata and spec"),
        (
            SERVICE + "---\n" + EXAMPLE.read_text().replace("v1alpha1", "v2"),
            "apiVersion: must be diffusion-operator.dev",
        ),
    ],
)
def test_a_file_that_nothing_can_be_made_of_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(text)
    code, said = dpipe("render", "-f", str(file))
    assert code == 1
    assert words in said


def test_a_missing_file_is_named() -> None:
    assert dpipe("render", "-f", "nowhere.yaml") == (1, "nowhere.yaml: No such file or directory\n")


def test_without_a_running_pipeline_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    code, text = dpipe("generate", "a red seven", "-o", str(tmp_path / "x.png"))
    assert code == 1
    assert "no pipeline runs on this machine: start one with `dpipe up -f FILE`" in text


def test_a_router_that_is_not_there_is_named(tmp_path: Path) -> None:
    code, text = dpipe("generate", "a red seven", "-o", str(tmp_path / "x.png"), "--url", "http://127.0.0.1:9")
    assert code == 1
    assert "no answer from a router at http://127.0.0.1:9" in text


@pytest.mark.parametrize(
    ("name", "video", "words"),
    [
        ("x.gif", False, "end the name with one of .png"),
        ("x.png", True, "a video is written as .mp4"),
        ("x.mp4", False, ".mp4 and --video"),
    ],
)
def test_a_file_name_that_says_another_format_is_refused(name: str, video: bool, words: str) -> None:
    code, text = dpipe("generate", "a red seven", "-o", name, *(["--video"] if video else []))
    assert code == 1
    assert words in text


def test_a_taken_port_is_refused_when_it_was_asked_for(taken_port: int) -> None:
    code, text = dpipe("up", "-f", str(EXAMPLE), "--port", str(taken_port))
    assert code == 1
    assert f"port {taken_port} is taken" in text


def test_adapters_are_sent_with_their_scales_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    async def generated(_url: str, request: dict[str, object], *_: object, **__: object) -> int:
        asked.append(request.get("adapters"))
        return 0

    monkeypatch.setattr("dpipe.client.generate.generate_files", generated)
    made = ("generate", "x", "-o", "x.png", "--url", "http://127.0.0.1:1")
    assert dpipe(*made, "--adapter", "ink", "--adapter", "house-2.1:-0.5")[0] == 0
    assert dpipe(*made)[0] == 0
    assert asked == [[{"name": "ink"}, {"name": "house-2.1", "scale": -0.5}], None]


def test_a_scheduler_is_sent_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    async def generated(_url: str, request: dict[str, object], *_: object, **__: object) -> int:
        asked.append(request)
        return 0

    monkeypatch.setattr("dpipe.client.generate.generate_files", generated)
    made = ("generate", "x", "-o", "x.png", "--url", "http://127.0.0.1:1")
    assert dpipe(*made, "--scheduler", "fast")[0] == 0
    assert dpipe(*made)[0] == 0
    assert asked[0].get("scheduler") == "fast"
    assert "scheduler" not in asked[1]


def test_a_scale_that_is_no_number_is_named_with_what_it_should_be() -> None:
    code, text = dpipe("generate", "x", "-o", "x.png", "--url", "http://127.0.0.1:1", "--adapter", "ink:half")
    assert code != 0
    assert "--adapter ink:half: what follows the name is its scale, such as ink:0.8" in text


def test_controls_and_ip_adapters_are_sent_with_their_pictures_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[object] = []

    async def generated(
        _url: str, request: dict[str, object], pictures: list[tuple[str, Path]], *_: object, **__: object
    ) -> int:
        named = {name: request[name] for name in ("controls", "ip_adapters") if name in request}
        asked.append((named, [(field, file.name) for field, file in pictures]))
        return 0

    monkeypatch.setattr("dpipe.client.generate.generate_files", generated)
    lines, odd = tmp_path / "lines.png", tmp_path / "far:2.png"
    for one in (lines, odd):
        one.write_bytes(b"")
    made = ("generate", "x", "-o", "x.png", "--url", "http://127.0.0.1:1")
    led = ("--control", f"edges={lines}:0.5", "--control", f"depth={odd}")
    assert dpipe(*made, *led)[0] == 0
    assert dpipe(*made, "--ip-adapter", f"style={odd}:0.5", "--ip-adapter", f"style={lines}")[0] == 0
    assert dpipe(*made, *led[:2], "--ip-adapter", f"style={odd}", "--image", str(lines))[0] == 0
    assert dpipe(*made)[0] == 0
    edges, depth, style = {"name": "edges", "scale": 0.5}, {"name": "depth"}, {"name": "style"}
    control, shown = "controls[image]", "ip_adapters[image]"
    assert asked == [
        ({"controls": [edges, depth]}, [(control, "lines.png"), (control, "far:2.png")]),
        ({"ip_adapters": [{**style, "scale": 0.5}, style]}, [(shown, "far:2.png"), (shown, "lines.png")]),
        (
            {"controls": [edges], "ip_adapters": [style]},
            [("image", "lines.png"), (control, "lines.png"), (shown, "far:2.png")],
        ),
        ({}, []),
    ]


@pytest.mark.parametrize("option", ["--control", "--ip-adapter"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("edges", "there is no file"),
        ("edges=none.png", "there is no file none.png: give a name and a picture, as in edges=picture.png"),
        ("edges=none.png:half", "what follows the file is its scale, such as none.png:0.8"),
        ("=README.md", "give a name and a picture"),
    ],
)
def test_one_without_a_picture_is_named_with_what_it_should_be(option: str, given: str, said: str) -> None:
    code, text = dpipe("generate", "x", "-o", "x.png", "--url", "http://127.0.0.1:1", option, given)
    assert code != 0
    assert f"{option} {given}: " in text
    assert said in text


def test_how_it_is_to_be_served_goes_into_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    async def generated(_url: str, request: dict[str, object], *_: object, **__: object) -> int:
        asked.append(request)
        return 0

    monkeypatch.setattr("dpipe.client.generate.generate_files", generated)
    made = ("generate", "x", "-o", "x.png", "--url", "http://127.0.0.1:1")
    assert dpipe(*made, "--target", "30", "--priority", "batch") == (0, "")
    assert (asked[0]["target_seconds"], asked[0]["priority"]) == (30.0, "batch")
    assert dpipe(*made) == (0, "")
    assert not {"target_seconds", "priority"} & asked[1].keys()
    code, text = dpipe(*made, "--priority", "urgent")
    assert (code, "--priority" in text, "interactive" in text) == (2, True, True)
