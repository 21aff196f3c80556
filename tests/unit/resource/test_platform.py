"""Defaults of a platform: what goes beneath a pipeline, what wins, and what of a file is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from diffusion_operator.api import InvalidResourceError, Pipeline, load_platform
from diffusion_operator.render import Images, render
from diffusion_operator.settings import Settings
from unit.render.children import (
    Child,
    environment,
    main_container,
    of_kind,
    pipeline,
    pod_spec,
    stateful_sets,
    workers,
)

GPU = {"gpus": 1}


def beneath(platform: dict[str, Any], **sections: Any) -> Pipeline:
    return load_platform(platform).beneath(pipeline(**sections))


def sets(platform: dict[str, Any], **sections: Any) -> dict[str, Child]:
    return stateful_sets(render(beneath(platform, **sections)))


def test_nothing_given_is_nothing_changed() -> None:
    for document in (None, {}):
        assert load_platform(document).beneath(pipeline()) == pipeline()


def test_variables_are_merged_by_name() -> None:
    platform = {"pods": {"env": [{"name": "HTTPS_PROXY", "value": "theirs"}, {"name": "NO_PROXY", "value": "a"}]}}
    found = sets(platform, roles={"decoder": {"env": [{"name": "HTTPS_PROXY", "value": "mine"}]}})
    assert environment(found["decoder"])["HTTPS_PROXY"] == "mine"
    assert environment(found["decoder"])["NO_PROXY"] == "a"
    for role in ("encoder", "denoiser", "router"):
        assert environment(found[role])["HTTPS_PROXY"] == "theirs"
    names = [item["name"] for item in main_container(found["decoder"])["env"]]
    assert names.count("HTTPS_PROXY") == 1
    assert names.index("NO_PROXY") < names.index("HTTPS_PROXY"), "the pipeline's may refer to the platform's"


def test_tolerations_are_merged_by_key_and_effect_and_node_selectors_by_key() -> None:
    spot, gpu = {"key": "spot", "operator": "Exists"}, {"key": "gpu", "value": "a", "effect": "NoSchedule"}
    mine = {"key": "gpu", "value": "b", "effect": "NoSchedule"}
    platform = {"pods": {"tolerations": [spot, gpu], "nodeSelector": {"pool": "theirs", "zone": "a"}}}
    role = {"tolerations": [mine], "nodeSelector": {"pool": "mine"}}
    found = sets(platform, roles={"decoder": role})
    assert pod_spec(found["decoder"])["tolerations"] == [spot, mine]
    assert pod_spec(found["decoder"])["nodeSelector"] == {"pool": "mine", "zone": "a"}
    assert pod_spec(found["router"])["tolerations"] == [spot, gpu]


def test_classes_are_taken_whole() -> None:
    platform = {"pods": {"priorityClassName": "theirs", "runtimeClassName": "theirs"}}
    found = sets(platform, roles={"decoder": {"priorityClassName": "mine"}})
    assert pod_spec(found["decoder"])["priorityClassName"] == "mine"
    assert pod_spec(found["decoder"])["runtimeClassName"] == "theirs"


def test_the_profile_that_a_pipeline_names_wins() -> None:
    platform = {"securityProfile": "OpenShift"}
    assert "runAsUser" not in pod_spec(sets(platform)["decoder"])["securityContext"]
    assert pod_spec(sets(platform, securityProfile="Restricted")["decoder"])["securityContext"]["runAsUser"] == 65532


def test_a_section_is_of_the_pods_that_it_is_named_after() -> None:
    platform = {
        "pods": {"priorityClassName": "all", "runtimeClassName": "all"},
        "workers": {"priorityClassName": "workers", "nodeSelector": {"a": "workers"}},
        "gpuWorkers": {"runtimeClassName": "nvidia", "nodeSelector": {"a": "gpus"}},
        "router": {"nodeSelector": {"a": "router"}},
    }
    found = {
        role: (pod["priorityClassName"], pod["runtimeClassName"], pod["nodeSelector"]["a"])
        for role, pod in ((role, pod_spec(made)) for role, made in sets(platform, roles={"denoiser": GPU}).items())
    }
    assert found == {
        "encoder": ("workers", "all", "workers"),
        "denoiser": ("workers", "nvidia", "gpus"),
        "decoder": ("workers", "all", "workers"),
        "router": ("all", "all", "router"),
    }


def test_secrets_labels_and_annotations() -> None:
    platform = {
        "imagePullSecrets": [{"name": "theirs"}, {"name": "both"}],
        "commonLabels": {"team": "theirs", "a": "b"},
        "commonAnnotations": {"note": "theirs"},
    }
    children = render(
        beneath(platform, imagePullSecrets=[{"name": "both"}, {"name": "mine"}], commonLabels={"team": "mine"})
    )
    for made in stateful_sets(children).values():
        assert [item["name"] for item in pod_spec(made)["imagePullSecrets"]] == ["theirs", "both", "mine"]
    for child in children:
        assert {"team": "mine", "a": "b"}.items() <= child["metadata"]["labels"].items()
        assert child["metadata"]["annotations"] == {"note": "theirs"}


def test_the_storage_class_is_of_claims_that_name_none() -> None:
    hub = {"source": "Hub", "id": "a/b", "cache": {"type": "PerPod"}}
    claims = {"storage": {"type": "PersistentVolumeClaim"}}
    own = {"storage": {"type": "PersistentVolumeClaim", "storageClassName": "mine"}}

    def classes(**sections: Any) -> set[str]:
        found = sets({"storageClassName": "fast"}, **sections)
        return {
            claim["spec"]["storageClassName"]
            for made in found.values()
            for claim in made["spec"]["volumeClaimTemplates"]
        }

    assert classes(model=hub, router=claims) == {"fast"}
    assert classes(model=hub, router=own) == {"fast", "mine"}


def test_authorities_are_mounted_and_named_to_what_speaks_tls() -> None:
    found = sets({"caBundle": {"configMap": "trusted"}}, roles={"router": {"env": [{"name": "SSL_CERT_FILE"}]}})
    for role, made in found.items():
        (volume,) = (item for item in pod_spec(made)["volumes"] if item["name"] == "ca-bundle")
        assert volume["configMap"] == {"name": "trusted", "items": [{"key": "ca-bundle.crt", "path": "ca.crt"}]}
        (mount,) = (item for item in main_container(made)["volumeMounts"] if item["name"] == "ca-bundle")
        assert mount == {"name": "ca-bundle", "mountPath": "/etc/diffusion-operator/ca", "readOnly": True}
        assert environment(made)["REQUESTS_CA_BUNDLE"] == "/etc/diffusion-operator/ca/ca.crt"
        if role != "router":
            assert environment(made)["SSL_CERT_FILE"] == "/etc/diffusion-operator/ca/ca.crt"
    (volume,) = (
        item
        for item in pod_spec(sets({"caBundle": {"configMap": "t", "key": "root.pem"}})["router"])["volumes"]
        if item["name"] == "ca-bundle"
    )
    assert volume["configMap"]["items"][0]["key"] == "root.pem"


def test_security_contexts_are_merged_over_the_profile_and_beneath_the_pod_template() -> None:
    platform = {"pods": {"podSecurityContext": {"runAsUser": 7, "supplementalGroups": [8]}}}
    template = {"spec": {"securityContext": {"runAsUser": 9}}}
    found = sets(platform, roles={"decoder": {"podTemplate": template}})
    assert pod_spec(found["encoder"])["securityContext"]["runAsUser"] == 7
    assert pod_spec(found["encoder"])["securityContext"]["runAsNonRoot"] is True
    assert pod_spec(found["decoder"])["securityContext"]["runAsUser"] == 9
    assert pod_spec(found["decoder"])["securityContext"]["supplementalGroups"] == [8]


def test_what_rdma_needs_wins_over_the_platforms_context() -> None:
    rdma = {"protocol": "rdma", "rdma": {"resourceName": "rdma/hca"}}
    platform = {"workers": {"securityContext": {"runAsUser": 7, "seccompProfile": {"type": "Unconfined"}}}}
    for made in workers(render(beneath(platform, transport=rdma))):
        context = main_container(made)["securityContext"]
        assert (context["runAsUser"], context["seccompProfile"]) == (0, {"type": "Unconfined"})
        assert context["capabilities"]["add"] == ["IPC_LOCK"]


@pytest.mark.parametrize(
    ("registry", "image", "expected"),
    [
        ("mirror:5000", "diffusion-operator/worker:1", "mirror:5000/diffusion-operator/worker:1"),
        ("mirror/a", "ghcr.io/diffusion-operator/worker:1", "mirror/a/diffusion-operator/worker:1"),
        ("mirror", "localhost/worker", "mirror/worker"),
        ("mirror", "worker:1", "mirror/worker:1"),
        ("mirror", "h:5/a@sha256:0", "mirror/a@sha256:0"),
    ],
)
def test_an_image_of_the_operators_own_is_in_the_platforms_registry(registry: str, image: str, expected: str) -> None:
    assert load_platform({"imageRegistry": registry}).image(image) == expected


def test_an_image_that_somebody_names_is_where_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "platform.yaml"
    file.write_text("imageRegistry: mirror")
    flag = f"--platform-file={file}"
    found = Settings.read([flag]).images
    assert found.worker.startswith("mirror/diffusion-operator/worker:")
    assert Settings.read([flag, "--worker-image=mine/w:1"]).images == Images(worker="mine/w:1", router=found.router)
    monkeypatch.setenv("DIFFUSION_OPERATOR_ROUTER_IMAGE", "mine/r:1")
    assert Settings.read([flag]).images.router == "mine/r:1"
    tag = stateful_sets(render(pipeline(image={"tag": "9"}), found))["decoder"]
    assert main_container(tag)["image"] == "mirror/diffusion-operator/worker:9"
    whole = stateful_sets(render(pipeline(image={"repository": "mine/w", "tag": "9"}), found))["decoder"]
    assert main_container(whole)["image"] == "mine/w:9"


BROKEN = {
    "imageregistry: a": "imageregistry: unknown field; did you mean imageRegistry?",
    "imageRegistry: https://a": "imageRegistry: must match",
    "pods: {env: [{name: a b}]}": "pods.env[0].name: must match",
    "pods: {env: [{name: A}, {name: A}]}": "pods.env[1]: A is already given by item 0",
    "workers: {env: [{name: A, value: b, valueFrom: {fieldRef: {fieldPath: c}}}]}": "workers.env[0]: a variable has",
    "router: {tolerations: [{effect: Sometimes}]}": "router.tolerations[0].effect: must be one of",
    "caBundle: {key: a}": "caBundle: lacks the required field configMap",
    "securityProfile: Privileged": "securityProfile: must be one of Restricted, OpenShift, Custom",
    "commonLabels: {diffusion-operator.dev/role: x}": "commonLabels: diffusion-operator.dev/",
    "commonLabels: {a b: x}": "commonLabels.a b: is no name of a label",
    "[1]": "must be an object with imageRegistry",
    "a: b\n---\nc: d": "has 2 documents: give a file with one",
    "{": "is not YAML",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_ends_the_operator_with_field_and_remedy(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "platform.yaml"
    file.write_text(text)
    with pytest.raises(SystemExit) as ended:
        Settings.read([f"--platform-file={file}"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("diffusion_operator: --platform-file (DIFFUSION_OPERATOR_PLATFORM_FILE): ")
    assert f"{file}: {BROKEN[text]}" in told


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Settings.read([f"--platform-file={tmp_path}/none.yaml"])
    assert f"{tmp_path}/none.yaml: No such file" in capsys.readouterr().err


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(InvalidResourceError) as caught:
        load_platform(yaml.safe_load("{imageRegistry: '!', storageClassName: '', x: 1}"))
    assert len(caught.value.errors) == 3


def test_what_every_pod_may_reach_is_added_to_what_the_pipeline_says() -> None:
    theirs, mine = ({"ports": [{"protocol": "TCP", "port": port}]} for port in (3128, 8443))
    policies = of_kind(render(beneath({"egress": [theirs]}, networkPolicy={"egress": [mine]})), "NetworkPolicy")
    for policy in policies.values():
        assert policy["spec"]["egress"][-2:] == [theirs, mine]
    assert not of_kind(render(beneath({"egress": [theirs]}, networkPolicy={"mode": "None"})), "NetworkPolicy")


def test_a_service_keeps_what_it_says_itself() -> None:
    platform = {"commonAnnotations": {"lb": "theirs", "a": "b"}}
    children = render(beneath(platform, router={"service": {"annotations": {"lb": "mine"}}}))
    service = of_kind(children, "Service")["digits-router-api"]
    assert service["metadata"]["annotations"] == {"lb": "mine", "a": "b"}
