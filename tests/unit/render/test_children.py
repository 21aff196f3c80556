"""A pipeline becomes the objects that run it: golden files for whole pipelines, and what must hold for every one.

`UPDATE_GOLDEN=1 pytest tests/unit/render` writes the golden files anew; read the difference before committing it.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from diffusion_operator.api import Pipeline, load_pipeline
from diffusion_operator.render import Images, names, render

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden"
IMAGES = Images(worker="example/worker:1", router="example/router:1")


def example(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
    return loaded


def pipeline(**roles_and_more: Any) -> Pipeline:
    resource = example("digits")
    for key, value in roles_and_more.items():
        resource["spec"].setdefault(key, {}).update(value)
    return load_pipeline(resource)


def stateful_sets(children: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By role."""
    return {
        child["metadata"]["labels"][names.ROLE_LABEL]: child for child in children if child["kind"] == "StatefulSet"
    }


def main_container(stateful_set: dict[str, Any]) -> dict[str, Any]:
    containers = stateful_set["spec"]["template"]["spec"]["containers"]
    return next(container for container in containers if container["name"] == "main")


def environment(stateful_set: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item.get("value", "") for item in main_container(stateful_set)["env"]}


@pytest.mark.parametrize("name", ["digits", "digits-colocated", "digits-shm"])
def test_the_children_are_those_of_the_golden_file(name: str) -> None:
    rendered = render(load_pipeline(example(name)), IMAGES)
    file = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(yaml.safe_dump_all(rendered, sort_keys=False))
    assert rendered == list(yaml.safe_load_all(file.read_text()))


def test_a_role_is_a_stateful_set_with_a_headless_service_of_the_same_name() -> None:
    children = render(pipeline())
    services = {child["metadata"]["name"]: child["spec"] for child in children if child["kind"] == "Service"}
    for stateful_set in stateful_sets(children).values():
        name = stateful_set["metadata"]["name"]
        assert stateful_set["spec"]["serviceName"] == name
        assert services[name]["clusterIP"] == "None"
        assert services[name]["publishNotReadyAddresses"] is True
    assert services["digits-router-api"]["type"] == "ClusterIP"


def test_selectors_hold_nothing_that_may_change() -> None:
    before, after = render(pipeline(), IMAGES), render(pipeline(model={"dtype": "bfloat16"}), Images("other", "images"))
    for role, stateful_set in stateful_sets(before).items():
        selector = stateful_set["spec"]["selector"]["matchLabels"]
        assert selector.keys() == {names.PIPELINE_LABEL, names.ROLE_LABEL}
        assert selector.items() <= stateful_set["spec"]["template"]["metadata"]["labels"].items()
        assert stateful_sets(after)[role]["spec"]["selector"]["matchLabels"] == selector


def test_a_colocated_role_has_no_pods_but_a_place_in_the_denoisers_command() -> None:
    sets = stateful_sets(render(pipeline(roles={"encoder": {"colocateWith": "denoiser"}})))
    assert sets.keys() == {"router", "denoiser", "decoder"}
    assert main_container(sets["denoiser"])["args"] == ["--role", "encoder,denoiser"]
    assert main_container(sets["decoder"])["args"] == ["--role", "decoder"]


def test_replicas_threads_device_and_arguments_reach_the_pods_of_their_role_alone() -> None:
    denoiser = {"replicas": 3, "threads": 4, "device": "cuda", "args": ["--log-format", "json"]}
    sets = stateful_sets(render(pipeline(roles={"denoiser": denoiser})))
    assert [sets[role]["spec"]["replicas"] for role in ("encoder", "denoiser", "decoder")] == [1, 3, 1]
    assert main_container(sets["denoiser"])["args"][-2:] == ["--log-format", "json"]
    assert environment(sets["denoiser"])["DIFFUSION_WORKER_THREADS"] == "4"
    assert environment(sets["denoiser"])["OMP_NUM_THREADS"] == "4"
    assert environment(sets["denoiser"])["DIFFUSION_WORKER_DEVICE"] == "cuda"
    assert environment(sets["decoder"])["DIFFUSION_WORKER_DEVICE"] == "cpu"


def test_threads_left_out_leave_the_choice_to_the_libraries() -> None:
    resource = example("digits")
    del resource["spec"]["roles"]["encoder"]["threads"]
    sets = stateful_sets(render(load_pipeline(resource)))
    assert not {"DIFFUSION_WORKER_THREADS", "OMP_NUM_THREADS"} & environment(sets["encoder"]).keys()


def test_the_users_variables_win_and_may_refer_to_ours() -> None:
    env = [{"name": "DIFFUSION_WORKER_DRAIN_SECONDS", "value": "5"}, {"name": "ME", "value": "$(POD_NAME)"}]
    decoder = stateful_sets(render(pipeline(roles={"decoder": {"env": env}})))["decoder"]
    variables = main_container(decoder)["env"]
    assert variables[-2:] == env
    assert len({variable["name"] for variable in variables}) == len(variables)


def test_the_transport_and_router_settings_reach_the_processes() -> None:
    transport = {"backend": "tcp", "poolSize": "1Gi", "rpcPortRange": {"min": 16000, "max": 16100}}
    sets = stateful_sets(render(pipeline(transport=transport, router={"leaseSeconds": 9, "grpcPort": 9000})))
    worker, router = environment(sets["encoder"]), environment(sets["router"])
    assert worker["DIFFUSION_WORKER_BACKEND"] == "tcp"
    assert worker["DIFFUSION_WORKER_POOL_SIZE"] == str(2**30)
    assert (worker["DIFFUSION_WORKER_PORT_MIN"], worker["DIFFUSION_WORKER_PORT_MAX"]) == ("16000", "16100")
    assert worker["DIFFUSION_WORKER_ROUTER"] == "digits-router-0.digits-router.default.svc:9000"
    assert (router["DIFFUSION_ROUTER_LEASE_SECONDS"], router["DIFFUSION_ROUTER_GRPC_PORT"]) == ("9", "9000")


def test_each_named_port_is_the_one_that_its_variable_names() -> None:
    for stateful_set in stateful_sets(render(pipeline())).values():
        variables = environment(stateful_set)
        for port in main_container(stateful_set)["ports"]:
            assert variables[names.PORT_VARIABLES[port["name"]]] == str(port["containerPort"])


def generations(given: Pipeline, images: Images = IMAGES) -> set[str]:
    sets = stateful_sets(render(given, images))
    workers = [stateful_set for role, stateful_set in sets.items() if role != "router"]
    labels = {worker["spec"]["template"]["metadata"]["labels"][names.GENERATION_LABEL] for worker in workers}
    assert labels == {environment(worker)["DIFFUSION_WORKER_GENERATION"] for worker in workers}
    return labels


def test_all_workers_of_a_pipeline_are_of_one_generation() -> None:
    assert len(generations(pipeline(roles={"denoiser": {"threads": 4}, "encoder": {"args": ["--x"]}}))) == 1


def test_what_changes_the_meaning_of_a_tensor_changes_the_generation() -> None:
    seen = [
        generations(pipeline()),
        generations(pipeline(model={"dtype": "bfloat16"})),
        generations(pipeline(model={"source": "Hub", "id": "a/b"})),
        generations(pipeline(model={"source": "Hub", "id": "a/b", "revision": "2"})),
        generations(pipeline(transport={"backend": "tcp"})),
        generations(pipeline(), Images(worker="example/worker:2")),
    ]
    assert len(set().union(*seen)) == len(seen)


def test_scaling_and_tuning_leave_the_generation_as_it_is() -> None:
    tuned = pipeline(roles={"denoiser": {"replicas": 5, "threads": 8}}, router={"leaseSeconds": 30})
    assert generations(tuned) == generations(pipeline())


def test_pods_pass_pod_security_restricted_unless_they_share_memory() -> None:
    for stateful_set in stateful_sets(render(pipeline())).values():
        pod, container = stateful_set["spec"]["template"]["spec"], main_container(stateful_set)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert all(volume.keys() == {"name", "emptyDir"} for volume in pod["volumes"])


def test_workers_that_share_memory_are_placed_on_one_node() -> None:
    for role, stateful_set in stateful_sets(render(load_pipeline(example("digits-shm")))).items():
        pod = stateful_set["spec"]["template"]["spec"]
        assert ("affinity" in pod) == (role != "router")
        assert any(volume.get("hostPath", {}).get("path") == "/dev/shm" for volume in pod["volumes"]) == (
            role != "router"
        )


def test_rendering_is_pure() -> None:
    assert render(pipeline(), IMAGES) == render(pipeline(), IMAGES)
