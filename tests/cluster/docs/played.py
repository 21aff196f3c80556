"""What the cluster's fake pods would do: the operator's, which runs here as a process, and the routers'."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx

from cluster.fake_router import FakeRouter, peer, probe
from diffusionpipeline.v1 import registry_pb2
from testbed.controlplane.client import JSON, Refused
from testbed.controlplane.cluster import Cluster, ClusterError
from testbed.controlplane.operators import Operator
from testbed.controlplane.pods import is_ready
from testbed.waiting import TooLate, until

_LOOK_SECONDS: Final = 0.1
_SETTLE_SECONDS: Final = 1.0  # the operator waits for an answer for 2
# Of which a process beside the cluster has its own.
_OWN_FLAGS: Final = ("--http-port", "--log-format")
_PIPELINES: Final = "/apis/diffusion-operator.dev/v1alpha1/diffusionpipelines"
_PIPELINE: Final = "diffusion-operator.dev/pipeline"
_WORKERS: Final = "diffusion-operator.dev/role in (encoder, denoiser, decoder)"


@dataclass(frozen=True)
class _Wanted:
    """A Deployment's pod."""

    uid: str
    generation: int
    account: str
    flags: tuple[str, ...]


class DeployedOperator:
    """Runs what the Deployment of a release says, as its ServiceAccount, from its beginning to its end."""

    def __init__(self, cluster: Cluster, namespace: str, deployment: str, *flags: str, log: Path) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}"
        self._flags = flags
        self._log = log
        self._stopping = threading.Event()
        # It lasts as long as the operators that it starts, which end with it.
        self._thread = threading.Thread(target=self._follow, name="deployed operator", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _follow(self) -> None:
        runs: _Wanted | None = None
        with contextlib.ExitStack() as stack:
            while not self._stopping.wait(_LOOK_SECONDS):
                with contextlib.suppress(Refused, ClusterError, httpx.TransportError):
                    wanted = self._wanted()
                    if wanted != runs:
                        stack.close()
                        runs = None
                        if wanted is not None:
                            stack.enter_context(self._started(wanted))
                            runs = wanted

    def _wanted(self) -> _Wanted | None:
        if not self._cluster.api.exists(self._path):
            return None
        deployment = self._cluster.api.get(self._path)
        if "deletionTimestamp" in deployment["metadata"]:
            return None
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        flags = tuple(
            self._file_of(pod, container, flag) for flag in container["args"] if not flag.startswith(_OWN_FLAGS)
        )
        metadata = deployment["metadata"]
        return _Wanted(metadata["uid"], metadata["generation"], pod["serviceAccountName"], flags)

    def _file_of(self, pod: JSON, container: JSON, flag: str) -> str:
        """A flag that names a file of a mounted ConfigMap, naming a file here."""
        name, _, path = flag.partition("=")
        for mount in container["volumeMounts"]:
            volume = next(item for item in pod["volumes"] if item["name"] == mount["name"])
            if "configMap" in volume and path.startswith(f"{mount['mountPath']}/"):
                found = f"/api/v1/namespaces/{self._namespace}/configmaps/{volume['configMap']['name']}"
                file = self._log.with_name(path.rpartition("/")[2])
                file.write_text(self._cluster.api.get(found)["data"][file.name])
                return f"{name}={file}"
        return flag

    @contextlib.contextmanager
    def _started(self, wanted: _Wanted) -> Iterator[None]:
        kubeconfig = self._cluster.kubeconfig_of_account(self._namespace, wanted.account)
        operator = Operator(kubeconfig, *wanted.flags, *self._flags, log=self._log)
        with operator:
            yield


class EveryWorkerIsRegistered(FakeRouter):
    """Of the pipeline that was made last, or of the one of this namespace and name, whichever is asked about.

    Its peers are the worker pods that are ready, over RDMA where they were given devices.
    """

    def __init__(self, cluster: Cluster, only: tuple[str, str] | None = None) -> None:
        super().__init__()
        self._api = cluster.api
        self._only = only

    def ListPeers(self, request: registry_pb2.ListPeersRequest, context: Any) -> registry_pb2.ListPeersResponse:  # noqa: N802
        peers = [peer(pod, _mode(pod)) for pod in self._settled() if is_ready(pod)]
        probe(peers)
        return registry_pb2.ListPeersResponse(revision=1, epoch="test", peers=peers)

    def _settled(self) -> list[JSON]:
        """The workers, all of which are ready unless it takes too long: real ones are not until registered."""
        pods: list[JSON] = []

        def settled() -> bool:
            nonlocal pods
            pods = self._workers()
            return all(map(is_ready, pods))

        with contextlib.suppress(TooLate):
            until(settled, _SETTLE_SECONDS, "all workers are ready")
        return pods

    def _workers(self) -> list[JSON]:
        if (pipeline := self._only or self._last()) is None:
            return []
        namespace, name = pipeline
        selector = f"{_PIPELINE}={name},{_WORKERS}"
        return self._api.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector)

    def _last(self) -> tuple[str, str] | None:
        made = [pipeline["metadata"] for pipeline in self._api.items(_PIPELINES)]
        last = max(made, key=lambda metadata: str(metadata["creationTimestamp"]), default=None)
        return None if last is None else (last["namespace"], last["name"])


def _mode(pod: Mapping[str, Any]) -> str:
    limits = pod["spec"]["containers"][0].get("resources", {}).get("limits", {})
    return "mooncake-rdma" if any(name.startswith("rdma/") for name in limits) else "mooncake-tcp"
