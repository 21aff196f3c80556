"""A cluster whose pods run, on nodes that are this machine's namespaces."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from testbed.controlplane.access import allow
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import ADMINISTRATORS, Cluster, ClusterError
from testbed.nodes import images, machine, settings
from testbed.nodes.node import Node

_READY_SECONDS = 60.0
_FORWARD_SECONDS = 30.0
_LOST_SECONDS = 12
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


class NodeCluster(Cluster):
    """With `nodes` nodes (node-1, node-2, …), each of which offers `devices`: {"rdma/hca": 8}.

    A node that says nothing is lost after twelve seconds, and its pods are deleted after `toleration_seconds` more, if
    they do not say otherwise themselves. Nodes and pods have an address of each of `families`, the API server and the
    DNS of the first; `orders` names nodes that have another order. Enter it in a thread that lasts, as the main one:
    its programs end with it.
    """

    def __init__(
        self,
        *,
        nodes: int = 2,
        devices: Mapping[str, int] | None = None,
        toleration_seconds: int = 300,
        families: Sequence[str] = ("IPv4",),
        orders: Mapping[str, Sequence[str]] | None = None,
        apiserver_args: Sequence[str] = (),
        controller_args: Sequence[str] = (),
    ) -> None:
        tolerations = [
            f"--default-{why}-toleration-seconds={toleration_seconds}" for why in ("not-ready", "unreachable")
        ]
        noticing = [
            f"--node-monitor-grace-period={_LOST_SECONDS}s",
            "--node-monitor-period=1s",
            # Nodes that are lost one after another are dealt with at once, however large a part of the cluster.
            *("--node-eviction-rate=10", "--secondary-node-eviction-rate=10"),
        ]
        super().__init__(
            families=families,
            apiserver_args=[*tolerations, *apiserver_args],
            controller_args=[*noticing, *controller_args],
        )
        self._wanted = {f"node-{number}": dict(devices or {}) for number in range(1, nodes + 1)}
        self._orders = orders or {}
        self.nodes: dict[str, Node] = {}
        self._bridge: machine.Bridge | None = None

    def _start(self) -> None:
        machine.require()
        machine.sweep()
        self._bridge = machine.Bridge(self.folder, self.families)
        # Pods must reach the API server, and nobody else.
        self.address = self.advertised = self._bridge.host
        super()._start()

    def stop(self) -> None:
        with contextlib.ExitStack() as stack:  # each, whatever becomes of the others
            if self._bridge is not None:
                stack.callback(self._bridge.remove)
            stack.callback(super().stop)
            for name in self.nodes.keys() & self._children.keys():
                stack.callback(self.kill_node, name)

    @property
    def addresses(self) -> list[str]:
        """This machine's, as pods see it."""
        assert self._bridge is not None
        return [network.host for network in self._bridge.networks.values()]

    def _apiserver_arguments(self, etcd: int) -> list[str]:
        client = self.authority.issue("to-kubelets", "kube-apiserver", [ADMINISTRATORS])
        return [
            *super()._apiserver_arguments(etcd),
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--kubelet-certificate-authority={self.authority.certificate.file}",
            f"--kubelet-client-certificate={client.file}",
            f"--kubelet-client-key={client.key}",
            "--kubelet-preferred-address-types=InternalIP",
            # No kube-proxy makes Services' addresses work on the machine itself: webhooks are called at their pods'.
            "--enable-aggregator-routing=true",
        ]

    # Nodes

    def _start_nodes(self) -> None:
        read = {"verbs": ["list", "watch"]}
        objects = {**read, "apiGroups": [""], "resources": ["services", "namespaces", "pods"]}
        allow(
            self,
            "test:coredns",
            [objects, {**read, "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"]}],
        )
        policies = {**read, "apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"]}
        allow(self, "test:network-policies", [objects, policies])
        file = self.folder / "Corefile"
        file.write_text(settings.corefile(self.address, self.kubeconfig_of("test:coredns")))
        self._run("coredns", str(file))
        for name, devices in self._wanted.items():
            self._make_node(name, devices)
            self._power_on(name)
        for name in self._wanted:
            self._equip(name)

    def add_node(self, name: str, **resources: int | str) -> None:
        """A further node: `**{"rdma/hca": 8}` are its devices."""
        self._make_node(name, {resource: int(count) for resource, count in resources.items()})
        self._power_on(name)
        self._equip(name)

    def start_node(self, name: str) -> None:
        """Brings back a node that `kill_node` ended, with its disk as it was, and returns when it is ready."""
        began = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        self._power_on(name)
        self.wait_node_ready(name, since=began)

    def kill_node(self, name: str) -> None:
        """Ends a node at once, as a power cut would. Its Node object stays."""
        node = self.nodes[name]
        node.end(self._children.pop(name))

    @contextlib.contextmanager
    def power_cut(self, name: str) -> Iterator[None]:
        """A node is without power for as long as the body takes, and is ready again afterwards."""
        self.kill_node(name)
        try:
            yield
        finally:
            self.start_node(name)

    def disconnect(self, name: str) -> None:
        """Pulls a node's cable: its pods run on, and neither they nor it reach anything outside."""
        self.nodes[name].connect(False)

    def connect(self, name: str) -> None:
        self.nodes[name].connect(True)

    @contextlib.contextmanager
    def partition(self, one: str, other: str) -> Iterator[None]:
        """Nothing that a node or its pods send arrives at the other one; both reach the API server and the DNS."""
        sides = self.nodes[one], self.nodes[other]
        try:
            for side, opposite in (sides, sides[::-1]):
                side.refuse([opposite])
            yield
        finally:
            for side in sides:
                if side.name in self._children:
                    side.refuse([])

    def kill_kubelet(self, name: str) -> None:
        """As a crash would; it starts again at once, and finds its pods running."""
        self.nodes[name].run("kill", "-KILL", self.kubelet(name))

    def kubelet(self, name: str) -> str:
        """The number of its process, among the node's."""
        return self.nodes[name].run("pidof", "-s", "kubelet").strip()

    def break_devices(self, name: str, resource: str, numbers: Sequence[int]) -> None:
        """A node's devices of a resource turn unhealthy: the first is number 0."""
        for mark in self.nodes[name].device_marks(resource, numbers):
            mark.touch()

    def mend_devices(self, name: str, resource: str, numbers: Sequence[int]) -> None:
        for mark in self.nodes[name].device_marks(resource, numbers):
            mark.unlink(missing_ok=True)

    def node(self, name: str) -> JSON:
        """The Node object."""
        return self.api.get(f"/api/v1/nodes/{name}")

    def node_ready(self, name: str, since: datetime.datetime | None = None) -> bool:
        """Whether pods can run on a node, as its kubelet said (no earlier than `since`)."""
        node = self.node(name)
        taints = {taint["key"] for taint in node["spec"].get("taints", [])}
        if taints & {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}:
            return False
        for condition in node["status"].get("conditions", []):
            if condition["type"] == "Ready" and condition["status"] == "True":
                said = datetime.datetime.fromisoformat(condition["lastHeartbeatTime"])
                return since is None or said >= since
        return False

    def wait_node_ready(
        self, name: str, seconds: float = _READY_SECONDS, since: datetime.datetime | None = None
    ) -> None:
        """Also until its devices are told, as many as it has in all, and the API server reaches its kubelet."""

        def ready() -> bool:
            if not self.node_ready(name, since):
                return False
            told = self.node(name)["status"]["capacity"]
            if any(int(told.get(resource, 0)) != count for resource, count in self.nodes[name].devices.items()):
                return False
            # The API server keeps its connection to a kubelet, and loses one request to notice that it is of before a
            # power cut. Let it be this one, and nobody's `kubectl logs`.
            return self.api.exists(f"/api/v1/nodes/{name}/proxy/healthz")

        try:
            self.until(ready, seconds, f"{name} is ready")
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self.logs_of_nodes()}") from None

    def logs_of_nodes(self, characters: int = 2000) -> str:
        """The ends of what each node's programs said, for a person who reads why a test failed."""
        return "\n".join(
            f"--- {name}: {program}\n{text}"
            for name, node in self.nodes.items()
            for program, text in node.logs(characters).items()
        )

    def _make_node(self, name: str, devices: Mapping[str, int]) -> None:
        assert self._bridge is not None
        families = self._orders.get(name, self.families)
        node = Node(name, len(self.nodes) + 1, self.folder / name, self._bridge, devices, families)
        user, groups = f"system:node:{name}", ["system:nodes"]
        serving = self.authority.issue(f"{name}-serving", user, groups, [name, *node.addresses])
        node.write(
            authority=self.authority.certificate.file,
            serving=(serving.file, serving.key),
            logins={
                "kubelet": self.kubeconfig_of(user, groups),
                "kube-proxy": self.kubeconfig_of("system:kube-proxy"),
                "network-policies": self.kubeconfig_of("test:network-policies"),
            },
        )
        self.nodes[name] = node

    def _power_on(self, name: str) -> None:
        node = self.nodes[name]
        self._children[name] = node.start(self.programs, self.folder / f"{name}.log")
        self.until(lambda: _answers(node), _READY_SECONDS, f"{name} has its containerd")

    def _equip(self, name: str) -> None:
        self.load_image(images.pause(self.folder), [name])
        self.wait_node_ready(name)

    # What pods need

    def load_image(self, archive: Path, nodes: Sequence[str] | None = None) -> None:
        """Puts the images of a docker or OCI archive on these nodes, or on all. Use them by the names it gives them."""
        chosen = [self.nodes[name] for name in (self.nodes if nodes is None else nodes)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.import_image(archive), chosen))

    def tag_image(self, name: str, other: str) -> None:
        """Gives an image that all nodes have another name."""
        for node in self.nodes.values():
            node.tag_image(name, other)

    def add_volume(self, name: str, node: str, size: str = "1Gi", *, claim: str = "", **spec: Any) -> Path:
        """A PersistentVolume on a node's disk, in /var/lib/volumes/NAME, which outlives pods and power cuts.

        For a claim without a storage class, or for `claim` ("namespace/name") alone. Its group is what the pod's
        fsGroup says. Returns where this machine sees its files.
        """
        on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
        affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}}
        self._add_volume(name, size, claim, "ReadWriteOnce", local=_on_disk(name), nodeAffinity=affinity, **spec)
        return self._volume(name, node)

    def add_shared_volume(self, name: str, size: str = "1Gi", *, claim: str = "") -> list[Path]:
        """One that pods on all nodes read, as they would a file server's. Returns where each node's copy belongs."""
        self._add_volume(name, size, claim, "ReadOnlyMany", hostPath=_on_disk(name))
        return [self._volume(name, node) for node in self.nodes]

    def _add_volume(self, name: str, size: str, claim: str, mode: str, **spec: Any) -> None:
        namespace, _, claimed = claim.partition("/")
        reserved = {"claimRef": {"namespace": namespace, "name": claimed}} if claim else {}
        self.api.post(
            "/api/v1/persistentvolumes",
            {
                "metadata": {"name": name},
                "spec": {
                    "capacity": {"storage": size},
                    "accessModes": [mode],
                    "persistentVolumeReclaimPolicy": "Retain",
                    **reserved,
                    **spec,
                },
            },
        )

    def _volume(self, name: str, node: str) -> Path:
        place = self.nodes[node].folder / "disk/lib/volumes" / name
        place.mkdir(exist_ok=True)
        return place

    # Pods

    def pod_ip(self, pod: str, namespace: str) -> str:
        """Its address, which this machine reaches too; waits until it has one."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
        self.until(lambda: self.api.get(path)["status"].get("podIP"), _READY_SECONDS, f"{pod} has an address")
        return str(self.api.get(path)["status"]["podIP"])

    def exec(self, pod: str, *command: str, namespace: str, container: str = "") -> str:
        """What a command in a pod prints. Raises ClusterError if it fails."""
        chosen = [f"--container={container}"] if container else []
        return self.kubectl("exec", pod, f"--namespace={namespace}", *chosen, "--", *command)

    def logs(self, pod: str, namespace: str, *options: str) -> str:
        return self.kubectl("logs", pod, f"--namespace={namespace}", *options)

    @contextlib.contextmanager
    def port_forward(self, target: str, port: int | str, namespace: str) -> Iterator[int]:
        """The port of 127.0.0.1 that leads to a pod's ("pod/x") or that of one of a Service's pods ("svc/x")."""
        arguments = ("port-forward", target, f":{port}", f"--namespace={namespace}", "--address=127.0.0.1")
        with self.kubectl_running(*arguments) as (forward, said):
            self.until(
                lambda: forward.poll() is not None or _FORWARDING.search(said()),
                _FORWARD_SECONDS,
                f"{target} is forwarded",
            )
            found = _FORWARDING.search(said())
            if found is None:
                raise ClusterError(f"{target} {port} is not forwarded: {said().strip()}")
            yield int(found[1])


def _on_disk(volume: str) -> JSON:
    """Where a node has it."""
    return {"path": f"/var/lib/volumes/{volume}"}


def _answers(node: Node) -> bool:
    with contextlib.suppress(ClusterError):
        return bool(node.ctr("version"))
    return False
