"""What must hold for the children of every pipeline."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_operator.api import Pipeline, Role, load_pipeline
from diffusion_operator.render import Images, names, render, seed
from testbed.examples import resource
from unit.render.children import (
    IMAGES,
    Child,
    environment,
    main_container,
    of_kind,
    pipeline,
    pod_spec,
    shared_environment,
    stateful_sets,
    workers,
)


def everything() -> Pipeline:
    document = resource("digits")
    document["spec"] |= {"networkPolicy": {"mode": "Isolate"}, "monitoring": {"podMonitor": True}}
    document["spec"]["roles"]["denoiser"] |= {"replicas": 2, "scaling": {"mode": "External"}}
    return load_pipeline(document)


def test_what_pods_need_comes_before_the_pods_and_the_router_first() -> None:
    kinds = [child["kind"] for child in render(everything())]
    assert list(dict.fromkeys(kinds)) == [
        "ServiceAccount",
        "ConfigMap",
        "Service",
        "NetworkPolicy",
        "StatefulSet",
        "PodDisruptionBudget",
        "DiffusionPipelineRoleScaler",
        "PodMonitor",
    ]
    assert next(iter(stateful_sets(render(everything())))) == "router"


def test_every_child_is_named_after_its_pipeline_and_carries_its_labels() -> None:
    children = render(everything())
    for child in children:
        metadata = child["metadata"]
        assert metadata["name"].startswith("digits")
        assert metadata["namespace"] == "default"
        assert metadata["labels"][names.PIPELINE_LABEL] == "digits"
        assert metadata["labels"][names.MANAGED_BY_LABEL] == "diffusion-operator"
    assert len({(child["kind"], child["metadata"]["name"]) for child in children}) == len(children)


def test_a_role_is_a_stateful_set_with_a_headless_service_of_the_same_name() -> None:
    children = render(pipeline())
    services = {name: child["spec"] for name, child in of_kind(children, "Service").items()}
    for stateful_set in stateful_sets(children).values():
        name = stateful_set["metadata"]["name"]
        assert stateful_set["spec"]["serviceName"] == name
        assert stateful_set["spec"]["podManagementPolicy"] == "Parallel"
        assert services[name]["clusterIP"] == "None"
        assert services[name]["publishNotReadyAddresses"] is True
    assert services["digits-router-api"]["type"] == "ClusterIP"


def test_the_service_for_clients_is_of_the_type_and_has_the_annotations_that_are_asked_for() -> None:
    service = {"type": "LoadBalancer", "annotations": {"lb": "internal"}}
    found = of_kind(render(pipeline(router={"service": service})), "Service")
    assert found["digits-router-api"]["spec"]["type"] == "LoadBalancer"
    assert found["digits-router-api"]["metadata"]["annotations"] == {"lb": "internal"}
    assert "annotations" not in found["digits-router"]["metadata"]


@pytest.mark.parametrize(
    ("service", "published"),
    [
        ({}, {"http", "grpc"}),
        ({"ports": ["http"]}, {"http"}),
        ({"type": "NodePort"}, {"http"}),
        ({"type": "LoadBalancer"}, {"http"}),
        ({"type": "LoadBalancer", "ports": ["grpc", "http"]}, {"http", "grpc"}),
    ],
)
def test_grpc_leaves_the_cluster_only_if_it_is_named_and_is_always_there_within(
    service: Child, published: set[str]
) -> None:
    given = pipeline(router={"service": service})
    services = of_kind(render(given), "Service")
    ports = {name: {port["name"] for port in found["spec"]["ports"]} for name, found in services.items()}
    assert ports["digits-router-api"] == published
    assert ports["digits-router"] == {"http", "grpc"}
    assert "grpc" in ports[names.grpc_service(given)]


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
    document = resource("digits")
    del document["spec"]["roles"]["encoder"]["threads"]
    sets = stateful_sets(render(load_pipeline(document)))
    assert not {"DIFFUSION_WORKER_THREADS", "OMP_NUM_THREADS"} & environment(sets["encoder"]).keys()


def test_the_users_variables_win_and_may_refer_to_ours() -> None:
    env = [
        {"name": "DIFFUSION_WORKER_DRAIN_SECONDS", "value": "5"},
        {"name": "ME", "value": "$(POD_NAME)"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
    ]
    decoder = stateful_sets(render(pipeline(roles={"decoder": {"env": env}})))["decoder"]
    variables = main_container(decoder)["env"]
    assert variables[-3:] == env
    assert len({variable["name"] for variable in variables}) == len(variables)


def test_the_transport_and_router_settings_reach_the_processes() -> None:
    transport = {"backend": "tcp", "poolSize": "1Gi", "rpcPortRange": {"min": 16000, "max": 16100}}
    children = render(pipeline(transport=transport, router={"leaseSeconds": 9, "grpcPort": 9000}))
    sets = stateful_sets(children)
    worker, router = environment(sets["encoder"]), environment(sets["router"])
    assert shared_environment(children)["DIFFUSION_WORKER_BACKEND"] == "tcp"
    assert worker["DIFFUSION_WORKER_POOL_SIZE"] == str(2**30)
    assert (worker["DIFFUSION_WORKER_PORT_MIN"], worker["DIFFUSION_WORKER_PORT_MAX"]) == ("16000", "16100")
    assert worker["DIFFUSION_WORKER_ROUTER"] == "digits-router-0.digits-router.default.svc:9000"
    assert (router["DIFFUSION_ROUTER_LEASE_SECONDS"], router["DIFFUSION_ROUTER_GRPC_PORT"]) == ("9", "9000")


def test_each_named_port_is_the_one_that_its_variable_names() -> None:
    for stateful_set in stateful_sets(render(pipeline())).values():
        variables = environment(stateful_set)
        for port in main_container(stateful_set)["ports"]:
            assert variables[names.PORT_VARIABLES[port["name"]]] == str(port["containerPort"])


def test_a_worker_has_its_time_to_drain_and_to_start() -> None:
    decoder = {"drainTimeoutSeconds": 300, "startupTimeoutSeconds": 95}
    sets = stateful_sets(render(pipeline(roles={"decoder": decoder})))
    assert environment(sets["decoder"])["DIFFUSION_WORKER_DRAIN_SECONDS"] == "300"
    assert pod_spec(sets["decoder"])["terminationGracePeriodSeconds"] == 310
    probe = main_container(sets["decoder"])["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 96
    probe = main_container(sets["encoder"])["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 1800


def test_the_update_strategy_asks_for_max_unavailable_only_where_it_is_not_one() -> None:
    def strategy(**update: Any) -> Any:
        found = stateful_sets(render(pipeline(roles={"denoiser": {"updateStrategy": update}})))
        return found["denoiser"]["spec"]["updateStrategy"]

    assert strategy() == strategy(maxUnavailable=1) == {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}
    assert strategy(maxUnavailable="50%", partition=2)["rollingUpdate"] == {"partition": 2, "maxUnavailable": "50%"}
    assert strategy(type="OnDelete") == {"type": "OnDelete"}


def test_gpus_are_requested_and_limited_and_choose_the_device() -> None:
    denoiser = {"gpus": 1, "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "8Gi"}}}
    found = stateful_sets(render(pipeline(roles={"denoiser": denoiser})))
    assert main_container(found["denoiser"])["resources"] == {
        "requests": {"cpu": "500m", "nvidia.com/gpu": "1"},
        "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"},
    }
    assert environment(found["denoiser"])["DIFFUSION_WORKER_DEVICE"] == "cuda"
    assert "resources" not in main_container(found["decoder"])


def test_scheduling_fields_reach_the_pods_as_they_are() -> None:
    fields = {
        "priorityClassName": "high",
        "schedulerName": "mine",
        "runtimeClassName": "nvidia",
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    }
    for role in Role:
        spec = pod_spec(stateful_sets(render(pipeline(roles={role: fields})))[role])
        assert {name: spec[name] for name in fields} == fields


def test_topology_spread_counts_the_pods_of_its_role() -> None:
    constraint = {"topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}
    found = stateful_sets(render(pipeline(roles={"denoiser": {"topologySpreadConstraints": [constraint]}})))["denoiser"]
    selector = {"matchLabels": found["spec"]["selector"]["matchLabels"]}
    assert pod_spec(found)["topologySpreadConstraints"] == [{"maxSkew": 1, **constraint, "labelSelector": selector}]


def test_a_suspended_pipeline_keeps_everything_but_its_pods() -> None:
    running, suspended = render(pipeline()), render(pipeline(suspend=True))
    for stateful_set in stateful_sets(suspended).values():
        assert stateful_set["spec"].pop("replicas") == 0
    for stateful_set in stateful_sets(running).values():
        assert stateful_set["spec"].pop("replicas") == 1
    assert suspended == running


def test_a_restart_changes_an_annotation_of_all_pods() -> None:
    document = resource("digits")
    document["spec"]["restart"] = {"id": "monday"}
    for stateful_set in stateful_sets(render(load_pipeline(document))).values():
        annotations = stateful_set["spec"]["template"]["metadata"]["annotations"]
        assert annotations[names.RESTART_ANNOTATION] == "monday"


def test_pods_use_an_account_without_token_of_their_own_or_the_one_that_is_named() -> None:
    children = render(pipeline())
    (account,) = of_kind(children, "ServiceAccount").values()
    assert account["automountServiceAccountToken"] is False
    named = render(pipeline(serviceAccountName="mine"))
    assert of_kind(named, "ServiceAccount") == {}
    for found, name in ((children, account["metadata"]["name"]), (named, "mine")):
        for stateful_set in stateful_sets(found).values():
            assert pod_spec(stateful_set)["serviceAccountName"] == name
            assert pod_spec(stateful_set)["automountServiceAccountToken"] is False


def test_pull_secrets_and_pull_policy_reach_the_pods() -> None:
    given = pipeline(imagePullSecrets=[{"name": "registry"}], image={"pullPolicy": "Always"})
    for role, stateful_set in stateful_sets(render(given)).items():
        assert pod_spec(stateful_set)["imagePullSecrets"] == [{"name": "registry"}]
        assert main_container(stateful_set).get("imagePullPolicy") == (None if role == "router" else "Always")


@pytest.mark.parametrize(
    ("given", "default", "image"),
    [
        ({}, "example/worker:1", "example/worker:1"),
        ({"tag": "2"}, "registry:5000/worker:1", "registry:5000/worker:2"),
        ({"tag": "2"}, "registry:5000/worker", "registry:5000/worker:2"),
        ({"repository": "mine"}, "example/worker:1", "mine:1"),
        ({"repository": "mine", "tag": "2"}, "example/worker@sha256:" + "1" * 64, "mine:2"),
        ({"digest": "sha256:" + "0" * 64, "tag": "2"}, "example/worker:1", "example/worker@sha256:" + "0" * 64),
        ({"repository": "mine"}, "example/worker", "mine"),
    ],
)
def test_what_a_resource_says_of_an_image_wins_over_the_operators(given: Child, default: str, image: str) -> None:
    children = render(pipeline(image=given, router={"image": given}), Images(worker=default, router=default))
    assert {main_container(stateful_set)["image"] for stateful_set in stateful_sets(children).values()} == {image}


def test_pods_say_where_their_metrics_are_unless_told_not_to() -> None:
    for role, stateful_set in stateful_sets(render(pipeline())).items():
        annotations = stateful_set["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == ("8000" if role == "router" else "8080")
    for stateful_set in stateful_sets(render(pipeline(monitoring={"scrapeAnnotations": False}))).values():
        annotations = stateful_set["spec"]["template"]["metadata"]["annotations"]
        assert not [name for name in annotations if name.startswith("prometheus.io")]


@pytest.mark.parametrize("storage", ["EmptyDir", "PersistentVolumeClaim"])
def test_an_autoscaler_may_take_a_node_with_scratch_and_none_with_jobs(storage: str) -> None:
    cache = {"source": "Hub", "id": "a/b", "cache": {"type": "EmptyDir"}}
    children = render(pipeline(model=cache, router={"storage": {"type": storage}}))
    for role, stateful_set in stateful_sets(children).items():
        template = stateful_set["spec"]["template"]
        named = template["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"]
        local = {volume["name"] for volume in template["spec"]["volumes"] if "emptyDir" in volume}
        assert set(named.split(",")) == local - {"data"}
        assert ("data" in local) == (role == "router" and storage == "EmptyDir")


def test_the_routers_pod_has_requests_and_a_limit_unless_it_is_given_others() -> None:
    def router(**spec: object) -> object:
        return main_container(stateful_sets(render(pipeline(roles={"router": spec})))["router"])["resources"]

    assert router() == {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}}
    assert router(resources={"limits": {"cpu": "2"}}) == {"limits": {"cpu": "2"}}


def test_a_pod_monitor_is_made_if_asked_for_and_names_ports_that_pods_have() -> None:
    assert of_kind(render(pipeline()), "PodMonitor") == {}
    children = render(pipeline(monitoring={"podMonitor": True}))
    (monitor,) = of_kind(children, "PodMonitor").values()
    named = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    for stateful_set in stateful_sets(children).values():
        assert len(named & {port["name"] for port in main_container(stateful_set)["ports"]}) == 1


def test_a_role_has_a_disruption_budget_while_it_has_more_than_one_pod() -> None:
    roles = {"encoder": {"replicas": 2}, "denoiser": {"replicas": 3, "disruptionBudget": {"maxUnavailable": "50%"}}}
    children = render(pipeline(roles=roles | {"decoder": {"replicas": 4, "disruptionBudget": {"enabled": False}}}))
    budgets = {name: child["spec"] for name, child in of_kind(children, "PodDisruptionBudget").items()}
    assert {name: budget["maxUnavailable"] for name, budget in budgets.items()} == {
        "digits-encoder": 1,
        "digits-denoiser": "50%",
    }
    for name, budget in budgets.items():
        assert budget["selector"] == of_kind(children, "StatefulSet")[name]["spec"]["selector"]


def test_the_scaler_of_an_external_role_says_how_many_pods_it_has() -> None:
    given = pipeline(roles={"denoiser": {"replicas": 2, "scaling": {"mode": "External"}}})
    children = render(given, counts={Role.DENOISER: 5, Role.ENCODER: 7})
    assert {role: child["spec"]["replicas"] for role, child in stateful_sets(children).items()} == {
        "router": 1,
        "encoder": 1,
        "denoiser": 5,
        "decoder": 1,
    }
    assert stateful_sets(render(given))["denoiser"]["spec"]["replicas"] == 2
    assert of_kind(children, "PodDisruptionBudget").keys() == {"digits-denoiser"}
    assert of_kind(render(given, counts={Role.DENOISER: 1}), "PodDisruptionBudget") == {}


def test_a_scaler_is_applied_without_replicas_and_seeded_with_one_at_least() -> None:
    given = pipeline(roles={"denoiser": {"scaling": {"mode": "External"}}})
    (scaler,) = of_kind(render(given), "DiffusionPipelineRoleScaler").values()
    assert scaler["metadata"]["name"] == "digits-denoiser"
    assert scaler["spec"] == {"pipelineRef": {"name": "digits"}, "role": "denoiser"}
    assert seed(scaler, 4)["spec"] == {**scaler["spec"], "replicas": 4}
    assert seed(scaler, 0)["spec"]["replicas"] == 1


def test_rendering_is_pure() -> None:
    given = everything()
    first = render(given, IMAGES)
    workers(first)[0]["spec"]["template"]["spec"]["containers"][0]["env"].clear()
    assert render(given, IMAGES) == render(everything(), IMAGES)


def test_another_order_of_jobs_is_told_to_the_router_and_changes_nothing_else() -> None:
    before, after = pipeline(), pipeline(scheduling={"policy": "Deadline", "targetFactor": 2, "lateShare": 0})
    router = environment(stateful_sets(render(after))["router"])
    said = {name: router[f"DIFFUSION_ROUTER_{name}"] for name in ("SCHEDULING_POLICY", "TARGET_FACTOR", "LATE_SHARE")}
    assert said == {"SCHEDULING_POLICY": "Deadline", "TARGET_FACTOR": "2.0", "LATE_SHARE": "0"}
    changed = [new for old, new in zip(render(before), render(after), strict=True) if old != new]
    assert [(child["kind"], child["metadata"]["name"]) for child in changed] == [("StatefulSet", "digits-router")]
    assert render(pipeline(scheduling={})) == render(before)


def test_checkpoints_are_asked_for_by_the_router_and_no_worker_is_replaced_for_them() -> None:
    denoiser = {"threads": 1}
    before, after = (pipeline(roles={"denoiser": denoiser | more}) for more in ({}, {"checkpointSeconds": 30}))
    router = environment(stateful_sets(render(after))["router"])
    assert router["DIFFUSION_ROUTER_CHECKPOINT_SECONDS"] == "30"
    changed = [new for old, new in zip(render(before), render(after), strict=True) if old != new]
    assert [(child["kind"], child["metadata"]["name"]) for child in changed] == [("StatefulSet", "digits-router")]
