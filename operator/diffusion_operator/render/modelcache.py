"""A ModelCache -> a DaemonSet for each role that is pulled.

Its pods have the workers' image, so that nodes have that too. An init container pulls what the role loads into the
node's folder and ends; what stays takes next to nothing, and by being ready tells that all of it is there. Pods that
start from the cache go where such pods are (see `placement`): no label of a node is needed, nor a right to set one.

It writes to a folder of the node as root, which a folder of a node that nobody made before belongs to, without any
capability; workers only read it.
"""

from __future__ import annotations

from typing import Any, Final

from diffusion_operator.api import ModelCache, RoleSpec
from diffusion_operator.render import names, storage
from diffusion_operator.render.environment import authorities, hub_token, merged
from diffusion_operator.render.images import Images, reference
from diffusion_operator.render.podtemplate import GRACE_SECONDS

Object = dict[str, Any]

FOLDER: Final = "/models"
# Of one that waits for a signal: some pages of an interpreter.
_HELD: Final[Object] = {"requests": {"cpu": "1m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}}
_SECURITY: Final[Object] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}


def path(cache: ModelCache) -> str:
    """The folder of each node."""
    return storage.node_path(cache.node_folder, cache.namespace, cache.name)


def daemon_set_name(cache: str, role: str) -> str:
    return f"{cache}-{role}"


def daemon_sets(cache: ModelCache, images: Images) -> list[Object]:
    return [_daemon_set(cache, spec, images.worker) for spec in cache.roles.values()]


def _daemon_set(cache: ModelCache, spec: RoleSpec, image: str) -> Object:
    labels = {
        **cache.labels,
        names.NAME_LABEL: "diffusion-model-cache",
        "app.kubernetes.io/instance": cache.name,
        "app.kubernetes.io/part-of": names.OPERATOR,
        "app.kubernetes.io/component": spec.role.value,
        names.MANAGED_BY_LABEL: names.OPERATOR,
        **names.cache_selector(cache.name, spec.role),
    }
    metadata: Object = {"labels": labels}
    if cache.annotations:
        metadata["annotations"] = dict(cache.annotations)
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": daemon_set_name(cache.name, spec.role), "namespace": cache.namespace, **metadata},
        "spec": {
            "selector": {"matchLabels": names.cache_selector(cache.name, spec.role)},
            # Nobody is served by these pods: the sooner all nodes have what is new, the better.
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
            "template": {"metadata": metadata, "spec": _pod(cache, spec, reference(cache.image, image))},
        },
    }


def _pod(cache: ModelCache, spec: RoleSpec, image: str) -> Object:
    volumes = [
        storage.empty(names.SCRATCH_VOLUME),
        storage.node_folder(cache.node_folder, cache.namespace, cache.name),
    ]
    mounts = [storage.mount(names.SCRATCH_VOLUME, storage.SCRATCH_PATH), storage.mount(names.CACHE_VOLUME, FOLDER)]
    volumes, mounts = storage.with_authorities(cache.ca_bundle, volumes, mounts)
    container: Object = {
        "image": image,
        "securityContext": {**_SECURITY, **spec.security},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **({"imagePullPolicy": cache.image.pull_policy} if cache.image.pull_policy else {}),
    }
    pull = {
        **container,
        "name": names.PULL,
        "command": ["python", "-m", "diffusion_worker.prefetch"],
        "args": ["--role", spec.role.value],
        "env": _environment(cache, spec),
        "volumeMounts": mounts,
        **({"resources": dict(spec.resources)} if spec.resources else {}),
    }
    hold = {**container, "name": names.MAIN, "command": ["python", "-m", "diffusion_worker.hold"], "resources": _HELD}
    user = {"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False, "seccompProfile": {"type": "RuntimeDefault"}}
    pod: Object = {
        **spec.scheduling,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {**spec.pod_security, **user},
        "initContainers": [pull],
        "containers": [hold],
        "volumes": volumes,
    }
    if cache.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in cache.pull_secrets]
    return pod


def _environment(cache: ModelCache, spec: RoleSpec) -> list[Object]:
    said = {
        "DIFFUSION_WORKER_MODEL_SOURCE": "Hub",
        "DIFFUSION_WORKER_MODEL_ID": cache.id,
        "DIFFUSION_WORKER_MODEL_REVISION": cache.revision,
        "DIFFUSION_WORKER_MODEL_VARIANT": cache.variant,
        "DIFFUSION_WORKER_ALLOW_PICKLE": str(cache.allow_pickle).lower(),
        "HF_HOME": FOLDER,
    }
    ours = [{"name": name, "value": value} for name, value in said.items() if value]
    return merged([*authorities(cache.ca_bundle), *ours, *hub_token(cache.token)], spec.env)
