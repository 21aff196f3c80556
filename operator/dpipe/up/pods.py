"""Rendered objects -> the processes that stand for their pods on this machine.

Each pod's container `main` becomes a process with the container's command and environment. What the cluster would
resolve is resolved here: ConfigMaps, downward API fields, `$(NAME)` references, names of pods, volumes, and ports,
which on one address must differ from process to process. Nothing is added that a container would not have. Where a pod
would be placed and what it may use have no meaning here; this machine's own model cache and hub token stand for the
pod's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diffusion_operator.render import names, storage
from dpipe.up.ports import LOOPBACK, free_ports

_REFERENCE: Final = re.compile(r"\$\$|\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_WILDCARDS: Final = {"0.0.0.0", "::"}
# Mooncake takes two ports for each engine, and those of a killed worker stay taken for a minute.
_LEAST_TRANSPORT_PORTS: Final = 16


class NotLocalError(ValueError):
    """A rendered pod needs something that only a cluster has."""


@dataclass(frozen=True)
class LocalProcess:
    pod: str
    role: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """What the container sets; the process has this machine's environment beneath it."""
    ports: Mapping[str, int]
    """By the name of the container port."""
    folder: Path
    """Working folder, with a subfolder for each volume."""


@dataclass(frozen=True)
class _Pod:
    name: str
    role: str
    host: str
    """The name that the cluster's DNS would have for it."""
    container: Mapping[str, Any]
    shared: Mapping[str, str]
    """Variables from ConfigMaps."""
    ports: Mapping[str, int]


def local_processes(children: Sequence[Mapping[str, Any]], *, data_dir: Path, http_port: int = 0) -> list[LocalProcess]:
    """A process for each pod of the StatefulSets in `children`, in their order.

    `http_port` is the router's, 0 for a free one. Raises NotLocalError, NoFreePortError.
    """
    config_maps = {child["metadata"]["name"]: child["data"] for child in children if child["kind"] == "ConfigMap"}
    pods = [pod for child in children if child["kind"] == "StatefulSet" for pod in _pods(child, config_maps)]
    if not pods:
        raise NotLocalError("spec.suspend is true, so that the pipeline has no pods: set it to false to run it")
    slices = _transport_slices(pods)
    avoid = {http_port, *(port for first, last in slices.values() for port in range(first, last + 1))}
    free = iter(free_ports(sum(len(pod.ports) for pod in pods), avoid=avoid))
    ports = {
        pod.name: {name: http_port if name == names.HTTP and http_port else next(free) for name in pod.ports}
        for pod in pods
    }
    addresses = {
        f"{pod.host}:{container_port}": f"{LOOPBACK}:{ports[pod.name][name]}"
        for pod in pods
        for name, container_port in pod.ports.items()
    }
    return [
        LocalProcess(
            pod=pod.name,
            role=pod.role,
            command=_command(pod.container),
            environment=_environment(pod, ports[pod.name], slices.get(pod.name), addresses, data_dir / pod.name),
            ports=ports[pod.name],
            folder=data_dir / pod.name,
        )
        for pod in pods
    ]


def _pods(stateful_set: Mapping[str, Any], config_maps: Mapping[str, Mapping[str, str]]) -> Iterator[_Pod]:
    metadata, spec = stateful_set["metadata"], stateful_set["spec"]
    template = spec["template"]
    _check(metadata["name"], template["spec"])
    container = next(item for item in template["spec"]["containers"] if item["name"] == names.MAIN)
    shared = _shared(metadata["name"], container, config_maps)
    for index in range(spec["replicas"]):
        name = f"{metadata['name']}-{index}"
        yield _Pod(
            name=name,
            role=template["metadata"]["labels"][names.ROLE_LABEL],
            host=f"{name}.{spec['serviceName']}.{metadata['namespace']}.svc",
            container=container,
            shared=shared,
            ports={port["name"]: port["containerPort"] for port in container["ports"]},
        )


def _check(name: str, pod: Mapping[str, Any]) -> None:
    for volume in pod["volumes"]:
        if volume["name"] == names.MODEL_VOLUME:
            kind = next(key for key in volume if key != "name")
            raise NotLocalError(
                f"{name}: the model lies in a volume ({kind}) that only a cluster has: for this machine, set "
                "spec.model.source to Path and spec.model.id to a folder"
            )
        if volume["name"] == names.CACHE_VOLUME and "hostPath" in volume:
            raise NotLocalError(
                f"{name}: the model comes from a ModelCache, which fills nodes of a cluster: for this machine, leave "
                "spec.model.cache out"
            )
    if pod.get("initContainers"):
        raise NotLocalError(
            f"{name}: only the container {names.MAIN} runs here, and init containers may prepare what it needs: leave "
            "podTemplate.spec.initContainers out for this machine"
        )


def _shared(name: str, container: Mapping[str, Any], config_maps: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        match source:
            case {"configMapRef": {"name": config_map}} if config_map in config_maps:
                found |= {source.get("prefix", "") + key: value for key, value in config_maps[config_map].items()}
            case _:
                raise NotLocalError(f"{name}: takes its environment from {source}, which only a cluster has")
    return found


def _transport_slices(pods: Sequence[_Pod]) -> dict[str, tuple[int, int]]:
    """First and last transport port of each worker: in a pod the whole range is a worker's own, here it is shared."""
    ranges: dict[str, tuple[int, int]] = {}
    for pod in pods:
        values = {item["name"]: item.get("value", "") for item in pod.container["env"]}
        if names.PORT_MIN_VARIABLE in values:
            ranges[pod.name] = (int(values[names.PORT_MIN_VARIABLE]), int(values[names.PORT_MAX_VARIABLE]))
    slices = {}
    for index, (name, (first, last)) in enumerate(ranges.items()):
        size = (last - first + 1) // len(ranges)
        if size < _LEAST_TRANSPORT_PORTS:
            raise NotLocalError(
                f"spec.transport.rpcPortRange: {last - first + 1} ports are too few for {len(ranges)} workers on one "
                f"machine, which share them: each needs {_LEAST_TRANSPORT_PORTS}; widen the range"
            )
        slices[name] = (first + index * size, first + (index + 1) * size - 1)
    return slices


def _command(container: Mapping[str, Any]) -> tuple[str, ...]:
    command: list[str] = [*container["command"], *container.get("args", ())]
    # The interpreter of an image is called python; here it is the one that has this package.
    return (sys.executable if command[0] == "python" else command[0], *command[1:])


def _environment(
    pod: _Pod,
    ports: Mapping[str, int],
    transport: tuple[int, int] | None,
    addresses: Mapping[str, str],
    folder: Path,
) -> dict[str, str]:
    fixed = {names.PORT_VARIABLES[name]: str(port) for name, port in ports.items()}
    if transport is not None:
        fixed |= {names.PORT_MIN_VARIABLE: str(transport[0]), names.PORT_MAX_VARIABLE: str(transport[1])}
    environment = dict(pod.shared)
    for item in pod.container["env"]:
        name = item["name"]
        if name == names.HUB_TOKEN_VARIABLE and "valueFrom" in item:
            continue
        value = fixed[name] if name in fixed else _expanded(_value(item, pod), environment)
        if value in _WILDCARDS:
            value = LOOPBACK
        local = _outside_the_container(addresses.get(value, value), pod.container, folder)
        if local is not None:
            environment[name] = local
    return environment


def _value(item: Mapping[str, Any], pod: _Pod) -> str:
    if "valueFrom" not in item:
        return str(item.get("value", ""))
    match item["valueFrom"]:
        case {"fieldRef": {"fieldPath": "metadata.name"}}:
            return pod.name
        case {"fieldRef": {"fieldPath": "metadata.uid"}}:
            return ""  # there is no pod: the process tells by the machine
        case {"fieldRef": {"fieldPath": "metadata.namespace"}}:
            return pod.host.split(".")[2]
        case {"fieldRef": {"fieldPath": "status.podIP" | "status.hostIP"}}:
            return LOOPBACK
        case source:
            raise NotLocalError(
                f"{pod.name}: variable {item['name']} takes its value from {source}, which only a cluster has"
            )


def _expanded(value: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` -> its value, if defined before; `$$` -> `$`, as the kubelet does."""

    def replacement(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return known.get(match[1], match[0])

    return _REFERENCE.sub(replacement, value)


def _outside_the_container(value: str, container: Mapping[str, Any], folder: Path) -> str | None:
    """Paths in the data volume move to `folder`. Where the hub keeps its files is left to this machine's own: None."""
    for mount in container["volumeMounts"]:
        path = mount["mountPath"]
        if value != path and not value.startswith(path + "/"):
            continue
        if mount["name"] == names.DATA_VOLUME:
            return str(folder / names.DATA_VOLUME) + value.removeprefix(path)
        if mount["name"] == names.CACHE_VOLUME or value == storage.HUB_SCRATCH_PATH:
            return None
    return value
