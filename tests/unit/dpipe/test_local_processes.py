"""Rendered pods become processes: what the cluster would resolve is resolved, nothing else is added."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from diffusion_operator.api import load_pipeline
from diffusion_operator.render import render
from dpipe.up.local import LocalPipeline
from dpipe.up.pods import LocalProcess, NotLocalError, local_processes
from dpipe.up.ports import free_ports, is_free
from testbed.examples import resource
from unit.render.children import pipeline

DATA = Path("/data")


def processes(http_port: int = 0, **sections: Any) -> dict[str, LocalProcess]:
    found = local_processes(render(pipeline(**sections)), data_dir=DATA, http_port=http_port)
    return {process.pod: process for process in found}


def test_every_pod_is_a_process_with_its_containers_command() -> None:
    found = processes(roles={"denoiser": {"replicas": 2}})
    assert list(found) == [
        "digits-router-0",
        "digits-encoder-0",
        "digits-denoiser-0",
        "digits-denoiser-1",
        "digits-decoder-0",
    ]
    assert found["digits-denoiser-1"].command == (sys.executable, "-m", "diffusion_worker", "--role", "denoiser")
    assert found["digits-denoiser-1"].environment["DIFFUSION_WORKER_POD_NAME"] == "digits-denoiser-1"
    assert found["digits-router-0"].command == (sys.executable, "-m", "diffusion_router")


def test_all_pods_log_as_told_but_for_those_of_which_the_resource_says_how(tmp_path: Path) -> None:
    document = resource("digits", roles__decoder__env=[{"name": "DIFFUSION_WORKER_LOG_LEVEL", "value": "error"}])
    local = LocalPipeline(load_pipeline(document), data_dir=tmp_path, log_level="debug", log_format="console")
    told = {name: pod.spec.environment for name, pod in local.pods.items()}
    assert told["digits-router-0"]["DIFFUSION_ROUTER_LOG_LEVEL"] == "debug"
    assert told["digits-encoder-0"]["DIFFUSION_WORKER_LOG_LEVEL"] == "debug"
    assert told["digits-decoder-0"]["DIFFUSION_WORKER_LOG_LEVEL"] == "error"
    assert told["digits-decoder-0"]["DIFFUSION_WORKER_LOG_FORMAT"] == "console"


def test_workers_reach_the_router_and_one_another_on_the_loopback_address() -> None:
    found = processes()
    router = found["digits-router-0"]
    worker = found["digits-encoder-0"].environment
    assert worker["DIFFUSION_WORKER_ROUTER"] == f"127.0.0.1:{router.ports['grpc']}"
    assert worker["DIFFUSION_WORKER_HOST"] == "127.0.0.1"
    assert router.environment["DIFFUSION_ROUTER_HOST"] == "127.0.0.1"
    assert router.environment["DIFFUSION_ROUTER_GRPC_PORT"] == str(router.ports["grpc"])


def test_no_two_processes_share_a_port() -> None:
    found = processes(roles={"denoiser": {"replicas": 3}})
    ports = [port for process in found.values() for port in process.ports.values()]
    assert len(set(ports)) == len(ports) == 12
    assert all(1024 <= port < 32768 for port in ports)


def test_workers_share_the_transports_ports_without_overlap() -> None:
    found = processes(roles={"denoiser": {"replicas": 2}}, transport={"rpcPortRange": {"min": 15000, "max": 15099}})
    slices = sorted(
        (int(process.environment["DIFFUSION_WORKER_PORT_MIN"]), int(process.environment["DIFFUSION_WORKER_PORT_MAX"]))
        for process in found.values()
        if process.role != "router"
    )
    assert slices == [(15000, 15024), (15025, 15049), (15050, 15074), (15075, 15099)]


def test_a_transport_range_too_small_for_all_workers_on_one_machine_is_refused() -> None:
    with pytest.raises(NotLocalError, match=r"spec\.transport\.rpcPortRange: 64 ports are too few for 7 workers"):
        processes(roles={"denoiser": {"replicas": 5}}, transport={"rpcPortRange": {"min": 15000, "max": 15063}})


def test_the_http_port_can_be_chosen() -> None:
    (port,) = free_ports(1)
    router = processes(http_port=port)["digits-router-0"]
    assert router.ports["http"] == port
    assert router.environment["DIFFUSION_ROUTER_HTTP_PORT"] == str(port)


def test_the_data_volume_is_a_folder_and_the_model_cache_is_the_machines_own() -> None:
    found = processes()
    assert found["digits-router-0"].environment["DIFFUSION_ROUTER_DATA_DIR"] == "/data/digits-router-0/data"
    assert "HF_HOME" not in found["digits-encoder-0"].environment


def test_references_are_expanded_as_the_kubelet_does() -> None:
    env = [
        {"name": "A", "value": "$(POD_NAME) on $(POD_IP)"},
        {"name": "B", "value": "$(A)!"},
        {"name": "C", "value": "$$(A) costs $5 and $(NOBODY)"},
    ]
    environment = processes(roles={"decoder": {"env": env}})["digits-decoder-0"].environment
    assert environment["A"] == "digits-decoder-0 on 127.0.0.1"
    assert environment["B"] == "digits-decoder-0 on 127.0.0.1!"
    assert environment["C"] == "$(A) costs $5 and $(NOBODY)"


def test_a_variable_that_only_a_cluster_can_fill_is_refused_by_name() -> None:
    children = render(pipeline())
    stateful_set = next(child for child in children if child["kind"] == "StatefulSet")
    container = stateful_set["spec"]["template"]["spec"]["containers"][0]
    container["env"].append({"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}})
    with pytest.raises(NotLocalError, match="variable TOKEN takes its value from"):
        local_processes(children, data_dir=DATA)


def test_what_all_workers_share_comes_from_the_generations_config_map() -> None:
    found = processes()
    assert found["digits-encoder-0"].environment["DIFFUSION_WORKER_MODEL_DTYPE"] == "float32"
    generations = {
        process.environment["DIFFUSION_WORKER_GENERATION"] for process in found.values() if process.role != "router"
    }
    assert len(generations) == 1
    assert "DIFFUSION_WORKER_MODEL_DTYPE" not in found["digits-router-0"].environment


def test_a_variable_of_the_container_wins_over_a_shared_one_and_may_refer_to_it() -> None:
    env = [{"name": "DIFFUSION_WORKER_MODEL_DTYPE", "value": "$(DIFFUSION_WORKER_MODEL_DTYPE)!"}]
    found = processes(roles={"decoder": {"env": env}})
    assert found["digits-decoder-0"].environment["DIFFUSION_WORKER_MODEL_DTYPE"] == "float32!"


def test_the_hubs_token_is_this_machines_own() -> None:
    model = {"source": "Hub", "id": "a/b", "tokenSecretRef": {"name": "hub"}, "cache": {"type": "PerPod"}}
    environment = processes(model=model)["digits-encoder-0"].environment
    assert not {"HF_TOKEN", "HF_HOME"} & environment.keys()


def test_devices_nodes_and_policies_mean_nothing_here() -> None:
    found = processes(
        transport={"protocol": "auto", "rdma": {"resourceName": "rdma/hca", "networks": ["roce"]}},
        networkPolicy={"mode": "Isolate"},
        monitoring={"podMonitor": True},
        roles={"denoiser": {"gpus": 1, "replicas": 2, "nodeSelector": {"a": "b"}, "scaling": {"mode": "External"}}},
    )
    assert len(found) == 5
    assert found["digits-denoiser-0"].environment["DIFFUSION_WORKER_DEVICE"] == "cuda"


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"suspend": True}, "spec.suspend is true"),
        (
            {"model": {"source": "PersistentVolumeClaim", "id": "m", "claimName": "c"}},
            r"digits-encoder: the model lies in a volume \(persistentVolumeClaim\).*set spec.model.source to Path",
        ),
        ({"model": {"source": "Image", "id": "r/m:1"}}, r"the model lies in a volume \(image\)"),
        (
            {"model": {"source": "Hub", "id": "a/b", "cache": {"type": "ModelCache", "modelCacheName": "c"}}},
            "digits-encoder: the model comes from a ModelCache.*leave spec.model.cache out",
        ),
        (
            {"roles": {"decoder": {"podTemplate": {"spec": {"initContainers": [{"name": "fetch"}]}}}}},
            "digits-decoder: only the container main runs here",
        ),
        (
            {
                "roles": {
                    "decoder": {
                        "podTemplate": {
                            "spec": {
                                "containers": [{"name": "main", "envFrom": [{"configMapRef": {"name": "elsewhere"}}]}]
                            }
                        }
                    }
                }
            },
            "takes its environment from .*elsewhere.*only a cluster has",
        ),
    ],
)
def test_what_only_a_cluster_can_give_is_refused_with_the_remedy(sections: dict[str, Any], words: str) -> None:
    with pytest.raises(NotLocalError, match=words):
        processes(**sections)


def test_free_ports_are_free_distinct_and_none_to_avoid() -> None:
    first = free_ports(50)
    second = free_ports(50, avoid=first)
    assert len(set(first + second)) == 100
    assert all(is_free(port) for port in first)
