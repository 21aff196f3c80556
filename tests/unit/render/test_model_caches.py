"""A ModelCache becomes DaemonSets that Kubernetes takes, with all that a platform says once."""

from __future__ import annotations

from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from diffusion_operator.api import load_platform
from diffusion_operator.api.modelcache import cache_from_live
from diffusion_operator.render.images import Images
from diffusion_operator.render.modelcache import daemon_sets

IMAGES: Final = Images(worker="example/worker:1", router="example/router:1")
CACHE: Final = """
model: {id: a/b, revision: v1, variant: fp16, tokenSecretRef: {name: hub}}
roles:
  encoder: {nodeSelector: {pool: cpu}}
  denoiser:
    tolerations: [{key: nvidia.com/gpu, operator: Exists}]
    env: [{name: HF_ENDPOINT, value: "http://mirror"}, {name: HTTPS_PROXY, value: "http://mine"}]
    resources: {limits: {memory: 2Gi}}
"""
PLATFORM: Final = """
caBundle: {configMap: trusted-ca}
modelCachePath: /mnt/models
commonLabels: {team: paint}
imagePullSecrets: [{name: mirror}]
pods: {env: [{name: HTTPS_PROXY, value: "http://proxy"}, {name: NO_PROXY, value: .svc}]}
workers: {podSecurityContext: {runAsNonRoot: true, runAsUser: 7}}
"""


def made(spec: str = CACHE, platform: str = "") -> dict[str, Any]:
    cache = cache_from_live({"metadata": {"name": "sd3", "namespace": "ai"}, "spec": yaml.safe_load(spec)})
    given = load_platform(yaml.safe_load(platform)).beneath_cache(cache)
    return {item["metadata"]["name"]: item for item in daemon_sets(given, IMAGES)}


def pod(daemon_set: Any) -> Any:
    return daemon_set["spec"]["template"]["spec"]


def variables(daemon_set: Any) -> dict[str, Any]:
    (pull,) = pod(daemon_set)["initContainers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in pull["env"]}


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("platform", ["", PLATFORM], ids=["alone", "on a platform"])
def test_kubernetes_own_schemas_know_every_field(version: str, platform: str) -> None:
    for item in made(platform=platform).values():
        kubernetes_validate.validate(item, version, strict=True)


def test_each_role_has_one_of_its_own_with_its_share_its_nodes_and_its_variables() -> None:
    found = made()
    assert list(found) == ["sd3-encoder", "sd3-denoiser"]
    assert pod(found["sd3-encoder"])["nodeSelector"] == {"pool": "cpu"}
    (pull,) = pod(found["sd3-denoiser"])["initContainers"]
    assert pull["args"] == ["--role", "denoiser"]
    assert pull["resources"] == {"limits": {"memory": "2Gi"}}
    told = variables(found["sd3-denoiser"])
    assert told["DIFFUSION_WORKER_MODEL_VARIANT"] == "fp16"
    assert told["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "token"}}
    assert told["HF_ENDPOINT"] == "http://mirror"
    assert "HF_ENDPOINT" not in variables(found["sd3-encoder"])


def test_what_stays_has_neither_token_nor_folder() -> None:
    (hold,) = pod(made()["sd3-denoiser"])["containers"]
    assert hold.keys().isdisjoint({"env", "envFrom", "volumeMounts"})


def test_a_platform_says_the_rest_and_the_cache_itself_wins() -> None:
    found = made(platform=PLATFORM)
    denoiser = pod(found["sd3-denoiser"])
    told = variables(found["sd3-denoiser"])
    assert (told["HTTPS_PROXY"], told["NO_PROXY"]) == ("http://mine", ".svc")
    assert told["SSL_CERT_FILE"] == "/etc/diffusion-operator/ca/ca.crt"
    assert denoiser["imagePullSecrets"] == [{"name": "mirror"}]
    assert found["sd3-denoiser"]["spec"]["template"]["metadata"]["labels"]["team"] == "paint"
    (folder,) = (one for one in denoiser["volumes"] if "hostPath" in one)
    assert folder["hostPath"]["path"] == "/mnt/models/ai/sd3"
    # Nobody else may write into a folder that the kubelet makes.
    assert (denoiser["securityContext"]["runAsUser"], denoiser["securityContext"]["runAsNonRoot"]) == (0, False)


def test_a_rendering_is_always_the_same() -> None:
    assert made(platform=PLATFORM) == made(platform=PLATFORM)
