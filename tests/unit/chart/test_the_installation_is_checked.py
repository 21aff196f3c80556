"""What `helm test` runs tells a good installation from a bad one. The API server's part is tried in tests/cluster."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType

import certifi
import pytest

from unit.chart.charts import CHART, render

SCRIPT = CHART / "files/check_installation.py"
SERVED = ("diffusionpipelines", "diffusionpipelinerolescalers")
SCALED = [name for plural in SERVED for name in (plural, f"{plural}/scale")]
DISCOVERY = {"resources": [{"name": name} for name in (*SCALED, "modelcaches")]}


@pytest.fixture
def check() -> ModuleType:
    specification = importlib.util.spec_from_file_location("check_installation", SCRIPT)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def answers() -> dict[str, str]:
    """What the server below says, by path. Anything else is not found."""
    return {
        "/apis/diffusion-operator.dev/v1alpha1": json.dumps(DISCOVERY),
        "/readyz": "ok",
        "/metrics": '# HELP x y\ndiffusion_operator_build_info{version="0.1.0"} 1.0\n',
    }


@pytest.fixture
def server(answers: dict[str, str]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path)
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write((body or "").encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """As the kubelet mounts it. The certificate is not used: the server here speaks plain HTTP."""
    (tmp_path / "token").write_text("secret")
    (tmp_path / "ca.crt").write_text(certifi.contents())
    return tmp_path


def test_a_good_installation_passes(
    check: ModuleType, server: str, account: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main(server, server, account) == 0
    assert capsys.readouterr().out.count("ok ") == 3


@pytest.mark.parametrize(
    ("path", "body", "complaint"),
    [
        ("/apis/diffusion-operator.dev/v1alpha1", None, "FAILED  the API server serves DiffusionPipelines"),
        (
            "/apis/diffusion-operator.dev/v1alpha1",
            json.dumps({"resources": [{"name": "diffusionpipelines"}]}),
            "lacks diffusionpipelinerolescalers, diffusionpipelinerolescalers/scale, diffusionpipelines/scale, "
            "modelcaches",
        ),
        ("/apis/diffusion-operator.dev/v1alpha1", "<html>", "FAILED  the API server serves DiffusionPipelines"),
        ("/readyz", None, "FAILED  the operator is ready"),
        ("/metrics", "# HELP x y\nup 1\n", "another process answers there"),
    ],
)
def test_what_is_wrong_is_told_and_the_rest_is_checked_all_the_same(
    check: ModuleType,
    server: str,
    account: Path,
    capsys: pytest.CaptureFixture[str],
    answers: dict[str, str],
    path: str,
    body: str | None,
    complaint: str,
) -> None:
    if body is None:
        del answers[path]
    else:
        answers[path] = body
    assert check.main(server, server, account) == 1
    out = capsys.readouterr().out
    assert complaint in out
    assert out.count("ok ") == 2


def test_an_operator_that_does_not_answer_fails_it(
    check: ModuleType, server: str, account: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main(server, "http://127.0.0.1:1", account) == 1
    assert "FAILED  the operator is ready" in capsys.readouterr().out


def test_the_pod_runs_this_script_with_the_operators_python() -> None:
    pod = render(release="r", namespace="n").one("Pod", "test")
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["python", "-c"]
    assert container["args"] == [SCRIPT.read_text()]
    assert {item["name"]: item["value"] for item in container["env"]} == {
        "API_SERVER": "https://kubernetes.default.svc",
        "OPERATOR": "http://r-diffusion-operator-metrics.n.svc:8080",
    }
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
