"""From `kubectl apply` to a picture: the quick start's path, held to the monolith's bytes."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from testbed.controlplane.client import JSON
from testbed.deployment.load import Request, draw, requests
from testbed.deployment.operator import NAMESPACE, RELEASE
from testbed.deployment.pipeline import HTTP_PORT, MODEL_ROLES, Deployed
from testbed.nodes.cluster import NodeCluster

SEVEN = requests()[0]


def dpipe(*arguments: str | Path) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("dpipe"), *arguments], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, f"dpipe {arguments}: {done.stderr}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def digits(deploy: Callable[[str], Deployed]) -> Deployed:
    return deploy("digits")


def test_an_applied_example_becomes_ready_and_kubectl_says_so(cluster: NodeCluster, digits: Deployed) -> None:
    table = cluster.kubectl("get", "dpipe", "digits", "--namespace", digits.namespace)
    header, row = (line.split() for line in table.splitlines())
    said = dict(zip(header, row, strict=True))
    assert (said["READY"], said["REASON"], said["TRANSPORT"]) == ("True", "Ready", "tcp")
    assert {said[name] for name in ("ENCODER", "DENOISER", "DECODER", "ROUTER")} == {"1/1"}
    for pod in digits.pods():
        assert restarts(pod) == 0, pod["metadata"]["name"]


def test_the_operator_heard_of_it_and_met_no_trouble(cluster: NodeCluster, digits: Deployed) -> None:
    said = cluster.kubectl("logs", f"deployment/{RELEASE}", "--namespace", NAMESPACE).splitlines()
    lines = [json.loads(line) for line in said]
    assert [line for line in lines if line["level"] not in ("info", "debug")] == []
    assert {"operator_starting", "operator_synced"} <= {line["event"] for line in lines}


def test_dpipe_and_openai_get_the_bytes_of_the_monolith_through_a_port_forward(
    cluster: NodeCluster, digits: Deployed, pictures: dict[Request, bytes], tmp_path: Path
) -> None:
    wanted = pictures[SEVEN]
    with cluster.port_forward("service/digits-router-api", HTTP_PORT, digits.namespace) as port:
        url = f"http://127.0.0.1:{port}"
        file = tmp_path / "seven.png"
        dpipe(
            "generate", SEVEN.prompt, "--seed", str(SEVEN.seed), "--steps", str(SEVEN.steps), "-o", file, "--url", url
        )
        assert file.read_bytes() == wanted
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=60, max_retries=0)
        settings = {"seed": SEVEN.seed, "num_inference_steps": SEVEN.steps}
        reply = client.images.generate(prompt=SEVEN.prompt, extra_body=settings)
        assert base64.b64decode(reply.data[0].b64_json or "") == wanted
        other = client.images.generate(prompt=SEVEN.prompt, extra_body={**settings, "seed": SEVEN.seed + 1})
        assert base64.b64decode(other.data[0].b64_json or "") != wanted


def test_tensors_went_from_pod_to_pod_over_mooncake_and_not_through_the_router(digits: Deployed) -> None:
    draw(digits, SEVEN)
    for role in ("denoiser", "decoder"):
        assert digits.metric(f"digits-{role}-0", "diffusion_worker_transfer_bytes_total") > 0
    addresses = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in digits.pods()}
    for peer in digits.peers():
        assert peer.pool.url.split("//")[-1].startswith(addresses[peer.pod_name])


def test_workers_pulled_from_a_peer_as_soon_as_they_met_one(digits: Deployed) -> None:
    found = {
        peer.pod_name: [(probed.pod_name, probed.bytes_per_second > 0, probed.error) for probed in peer.probed]
        for peer in digits.peers()
    }
    assert found == {
        "digits-encoder-0": [],
        "digits-denoiser-0": [("digits-encoder-0", True, "")],
        "digits-decoder-0": [("digits-denoiser-0", True, "")],
    }
    told = "1 denoiser from an encoder at"
    digits.until(
        lambda: told in digits.resources.condition("digits", "TransportReady")["message"], 90, "the status says so"
    )


def test_processes_run_without_rights_on_a_file_system_that_they_cannot_write(
    cluster: NodeCluster, digits: Deployed
) -> None:
    for role in (*MODEL_ROLES, "router"):
        pod = f"digits-{role}-0"
        run = ("exec", pod, "--namespace", digits.namespace, "--")
        assert cluster.kubectl(*run, "id", "-u").strip() == "65532"
        status = cluster.kubectl(*run, "cat", "/proc/1/status")
        values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert int(values["CapEff"], 16) == 0, pod
        assert (values["NoNewPrivs"], values["Seccomp"]) == ("1", "2"), pod
        with pytest.raises(Exception, match="Read-only file system"):
            cluster.kubectl(*run, "touch", "/opt/file")


def test_logs_are_json_with_level_time_and_event(digits: Deployed) -> None:
    for role in (*MODEL_ROLES, "router"):
        lines = digits.logs(f"digits-{role}-0")
        assert lines
        for line in lines:
            assert {"event", "level", "timestamp"} <= line.keys(), line


def test_what_is_deleted_leaves_no_pod(cluster: NodeCluster, digits: Deployed) -> None:
    digits.resources.delete("digits")
    digits.cluster.until(lambda: not digits.pods(), 60, "no pod is left")


def restarts(pod: JSON) -> int:
    return sum(status["restartCount"] for status in pod["status"]["containerStatuses"])
