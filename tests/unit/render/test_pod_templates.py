"""A user's pod template is merged over the operator's as Kubernetes merges: the user wins, and nothing else is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_operator.api import MODEL_ROLES, InvalidResourceError, Pipeline, Role
from diffusion_operator.api.podtemplate import REQUIRED
from diffusion_operator.render import names, render
from unit.render.children import Child, environment, main_container, pipeline, pod_spec, stateful_sets


def denoiser(template: Child, **fields: object) -> Pipeline:
    return pipeline(roles={"denoiser": {"podTemplate": template, **fields}})


def rendered(template: Child, **fields: object) -> Child:
    return stateful_sets(render(denoiser(template, **fields)))["denoiser"]


def main(**fields: object) -> Child:
    return {"spec": {"containers": [{"name": "main", **fields}]}}


PLAIN = rendered({})


def test_an_empty_template_changes_nothing() -> None:
    for template in ({}, {"spec": {}}, {"metadata": {}, "spec": None}, {"spec": {"containers": []}}, main()):
        assert rendered(template) == PLAIN


def test_it_reaches_its_own_role_alone() -> None:
    sets = stateful_sets(render(denoiser({"spec": {"hostname": "x"}})))
    assert [role for role in sets if "hostname" in pod_spec(sets[role])] == ["denoiser"]


def test_labels_and_annotations_are_added_but_selectors_hold() -> None:
    labels = {"team": "a", names.PIPELINE_LABEL: "stolen", names.GENERATION_LABEL: "old"}
    found = rendered({"metadata": {"labels": labels, "annotations": {"a": "b"}}})["spec"]["template"]["metadata"]
    before = PLAIN["spec"]["template"]["metadata"]
    assert found["labels"] == before["labels"] | {"team": "a"}
    assert found["annotations"] == before["annotations"] | {"a": "b"}


def test_fields_of_the_container_main_are_merged_by_its_name() -> None:
    found = main_container(rendered(main(imagePullPolicy="Never", resources={"limits": {"memory": "1Gi"}})))
    assert (found["imagePullPolicy"], found["resources"]) == ("Never", {"limits": {"memory": "1Gi"}})
    rest = {key: value for key, value in found.items() if key not in ("imagePullPolicy", "resources")}
    assert rest == main_container(PLAIN)


def test_another_container_is_added_behind_ours() -> None:
    found = pod_spec(rendered({"spec": {"containers": [{"name": "logs", "image": "l"}]}}))["containers"]
    assert [container["name"] for container in found] == ["main", "logs"]


def test_variables_are_merged_by_name_and_the_users_come_last() -> None:
    own = [{"name": "DIFFUSION_WORKER_POOL_SIZE", "value": "9"}, {"name": "ME", "value": "$(POD_NAME)"}]
    found = main_container(rendered(main(env=own)))["env"]
    assert found[-2:] == own
    assert len({item["name"] for item in found}) == len(found) == len(main_container(PLAIN)["env"]) + 1


def test_the_pod_template_wins_over_the_fields_that_are_short_for_it() -> None:
    found = rendered(
        main(env=[{"name": "A", "value": "template"}]),
        env=[{"name": "A", "value": "field"}],
        nodeSelector={"a": "1", "b": "2"},
    )
    assert environment(found)["A"] == "template"
    template = {"spec": {"nodeSelector": {"a": "3"}}}
    assert pod_spec(rendered(template, nodeSelector={"a": "1", "b": "2"}))["nodeSelector"] == {"a": "3", "b": "2"}


def test_volumes_and_mounts_are_replaced_as_a_whole_by_their_keys() -> None:
    spec = {
        "volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory"}}, {"name": "fonts", "configMap": {"name": "f"}}],
        "containers": [{"name": "main", "volumeMounts": [{"name": "fonts", "mountPath": "/tmp"}]}],
    }
    found = rendered({"spec": spec})
    volumes = {volume["name"]: volume for volume in pod_spec(found)["volumes"]}
    assert volumes["tmp"] == {"name": "tmp", "emptyDir": {"medium": "Memory"}}
    assert volumes["fonts"] == spec["volumes"][1]
    mounts = [mount for mount in main_container(found)["volumeMounts"] if mount["mountPath"] == "/tmp"]
    assert mounts == [{"name": "fonts", "mountPath": "/tmp"}]


def test_ports_are_merged_by_number_and_tolerations_added() -> None:
    template = main(ports=[{"containerPort": 8080, "name": "status"}, {"containerPort": 9999}])
    template["spec"]["tolerations"] = [{"key": "spot"}, {"key": "gpu"}]
    found = rendered(template, tolerations=[{"key": "gpu"}])
    assert [port["containerPort"] for port in main_container(found)["ports"]] == [8080, 8081, 9999]
    assert main_container(found)["ports"][0] == {"containerPort": 8080, "name": "status"}
    assert pod_spec(found)["tolerations"] == [{"key": "gpu"}, {"key": "spot"}]


def test_a_probe_has_one_handler() -> None:
    found = main_container(rendered(main(livenessProbe={"exec": {"command": ["true"]}})))["livenessProbe"]
    before = main_container(PLAIN)["livenessProbe"]
    assert found == {key: value for key, value in before.items() if key != "httpGet"} | {"exec": {"command": ["true"]}}


def test_a_list_without_keys_is_the_users() -> None:
    assert main_container(rendered(main(args=["--role", "denoiser"])))["args"] == ["--role", "denoiser"]
    context = {"capabilities": {"drop": ["NET_RAW"]}}
    found = main_container(rendered(main(securityContext=context)))["securityContext"]
    assert found["capabilities"] == {"drop": ["NET_RAW"]}
    assert found["readOnlyRootFilesystem"] is True


def test_null_removes_a_field() -> None:
    found = rendered({"spec": {"securityContext": None, "containers": [{"name": "main", "livenessProbe": None}]}})
    assert "securityContext" not in pod_spec(found)
    assert "livenessProbe" not in main_container(found)
    assert "readinessProbe" in main_container(found)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ({"status": {}}, "podTemplate.status: unknown field: a pod template has metadata and spec"),
        ({"spec": []}, "podTemplate.spec: must be an object"),
        ({"metadata": {"labels": "a"}}, "podTemplate.metadata.labels: must be an object"),
        ({"spec": {"containers": {}}}, "podTemplate.spec.containers: must be a list"),
        ({"spec": {"containers": ["main"]}}, "podTemplate.spec.containers[0]: must be an object"),
        ({"spec": {"containers": [{}]}}, "podTemplate.spec.containers[0]: lacks name, by which it would be merged"),
        (main(env={}), "podTemplate.spec.containers[0].env: must be a list"),
        (main(volumeMounts=[{"name": "x"}]), "volumeMounts[0]: lacks mountPath"),
        (main(envFrom="x"), "podTemplate.spec.containers[0].envFrom: must be a list"),
        (main(env=[None]), "podTemplate.spec.containers[0].env[0]: must be an object, not None"),
        (main(livenessProbe=3), "podTemplate.spec.containers[0].livenessProbe: must be an object, not 3"),
    ],
)
def test_a_template_that_cannot_be_merged_is_refused_with_its_path(template: Child, words: str) -> None:
    with pytest.raises(InvalidResourceError) as caught:
        denoiser(template)
    assert str(caught.value).startswith("spec.roles.denoiser.podTemplate")
    assert words in str(caught.value)


@pytest.mark.parametrize("affinity", [{"podAffinity": []}, {"podAntiAffinity": {REQUIRED: {}}}])
def test_an_affinity_that_no_term_can_be_added_to_is_refused(affinity: Child) -> None:
    with pytest.raises(InvalidResourceError, match=r"spec\.roles\.encoder\.affinity\.pod"):
        pipeline(roles={"encoder": {"affinity": affinity}})


VALUES = st.recursive(st.none() | st.integers(0, 3) | st.sampled_from(["a", "b"]), lambda v: st.lists(v, max_size=2))
FIELDS = ["image", "args", "securityContext", "env", "ports", "volumeMounts", "livenessProbe", "x"]
OBJECTS = st.dictionaries(st.sampled_from(["name", "value", "containerPort", "mountPath", "exec"]), VALUES, max_size=3)
CONTAINERS = st.dictionaries(st.sampled_from(FIELDS), VALUES | OBJECTS | st.lists(OBJECTS, max_size=2), max_size=3)
POD_FIELDS = st.sampled_from(["volumes", "tolerations", "nodeSelector", "affinity", "hostname", "initContainers"])
TEMPLATES = st.fixed_dictionaries(
    {},
    optional={
        "metadata": VALUES | st.dictionaries(st.sampled_from(["labels", "annotations"]), VALUES | OBJECTS),
        "spec": st.dictionaries(POD_FIELDS, VALUES | OBJECTS | st.lists(OBJECTS, max_size=2), max_size=3),
    },
)


@given(template=TEMPLATES, container=CONTAINERS, role=st.sampled_from([*MODEL_ROLES, Role.ROUTER]))
def test_any_template_is_either_merged_or_refused(template: Child, container: Child, role: Role) -> None:
    if isinstance(template.get("spec"), dict):
        template["spec"]["containers"] = [{**container, "name": "main"}]
    try:
        given_pipeline = pipeline(roles={role: {"podTemplate": template}})
    except InvalidResourceError as error:
        assert str(error).startswith(f"spec.roles.{role}.podTemplate")
        return
    first, second = render(given_pipeline), render(given_pipeline)
    assert first == second
    found = stateful_sets(first)[role]
    labels = found["spec"]["template"]["metadata"]["labels"]
    assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert [item["name"] for item in pod_spec(found)["containers"]].count("main") == 1
