"""One node: its files, its first process and what is done to it from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed.controlplane.children import spawn, tail
from testbed.controlplane.cluster import ClusterError
from testbed.nodes import settings
from testbed.nodes.machine import MOST_NODES, Bridge, make_group, remove_group
from testbed.nodes.network_policies import family
from testbed.waiting import TooLate, until

_START = Path(__file__).parent / "node.sh"
_SECONDS = 30.0


class Node:
    """`folder` holds its files; `folder/disk` is its disk, which a power cut leaves as it is.

    families: the bridge's versions of IP, in the order in which the node and its pods have addresses.
    """

    def __init__(
        self,
        name: str,
        index: int,
        folder: Path,
        bridge: Bridge,
        devices: Mapping[str, int],
        families: Sequence[str],
    ) -> None:
        self.name = name
        self.index = index
        self.folder = folder
        self._networks = [bridge.networks[family] for family in families]
        self.addresses = [network.node(index) for network in self._networks]
        self.pods = [network.pods(index) for network in self._networks]
        self.devices = dict(devices)
        self.socket = folder / "containerd.sock"
        # After the run's folder, so that a later run finds out whether it is in use.
        self.group = f"{folder.parent.name}.{name}"
        self._bridge = bridge
        for part in ("disk/lib/kubelet", "disk/lib/volumes", "disk/log", "cni", "unhealthy"):
            (folder / part).mkdir(parents=True)

    def write(self, *, authority: Path, serving: tuple[Path, Path], logins: Mapping[str, Path]) -> None:
        """The settings of its programs. `logins` are kubeconfigs: kubelet, kube-proxy and network-policies."""
        for program, kubeconfig in logins.items():
            kubeconfig.rename(self.folder / f"{program}.kubeconfig")
        resolv = self.folder / "pods-resolv.conf"
        resolv.touch()  # the kubelet adds the cluster's DNS
        kubelet = settings.kubelet(
            socket=self.socket,
            address=_everywhere(self.addresses),
            resolv=resolv,
            dns=self._bridge.host,
            group=self.group,
            authority=authority,
            serving=serving,
        )
        proxy = settings.kube_proxy(
            node=self.name,
            address=_everywhere(self.addresses),
            kubeconfig=self.folder / "kube-proxy.kubeconfig",
            pods=[str(network.whole) for network in self._networks],
        )
        for file, text in {
            "resolv.conf": f"nameserver {self._bridge.host}\n",
            "containerd.toml": settings.containerd(self.socket, self.folder / "cni"),
            "cni/10-pods.conflist": settings.pod_network(self.pods),
            "kubelet.yaml": kubelet,
            "kube-proxy.yaml": proxy,
        }.items():
            (self.folder / file).write_text(text)

    # Power and cables

    def start(self, programs: Path, log: Path) -> subprocess.Popen[bytes]:
        """The process with which the node ends, and that ends with it."""
        make_group(self.group)
        others = [index for index in range(1, MOST_NODES + 1) if index != self.index]
        networks = self._networks
        addresses = (network.on_link(network.node(self.index)) for network in networks)
        routes = (f"{network.pods(other)}={network.node(other)}" for network in networks for other in others)
        process = spawn(
            *("unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--mount-proc", "--kill-child=KILL"),
            *(_START, self.folder, self.name, ",".join(addresses), ",".join(network.host for network in networks)),
            *routes,
            *("--", *(f"{resource}={count}" for resource, count in self.devices.items())),
            log=log,
            environment={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHON": sys.executable},
        )
        try:
            self.first = _first_process(process, log)
            self._bridge.plug_in(self.index, self.first)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """At once, as a power cut would. Returns when nothing of it runs."""
        self._bridge.unplug(self.index)
        if process.poll() is None:
            # Its end is told when those of all processes in its namespace are.
            os.kill(self.first, signal.SIGKILL)
        process.wait(_SECONDS)
        until(
            lambda: remove_group(self.group), _SECONDS, f"{self.name}: its control groups /{self.group} have no process"
        )

    def connect(self, connected: bool) -> None:
        self._bridge.switch(self.index, on=connected)

    def refuse(self, others: Sequence[Node]) -> None:
        """Takes nothing that these nodes or their pods send, and says nothing about it."""
        senders = [address for other in others for address in (*other.addresses, *other.pods)]
        table = "table inet partition"
        rules = f"{table} {{}}\ndelete {table}\n"
        if others:
            received = "\n".join(f"{family(sender)} saddr {sender} drop" for sender in senders)
            hooked = f"type filter hook prerouting priority -300\n{received}"
            rules += f"{table} {{\nchain received {{\n{hooked}\n}}\n}}\n"
        self.run("nft", "-f", "-", stdin=rules)

    # Inside

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Runs a command on the node; returns what it printed."""
        entered = ["nsenter", f"--target={self.first}", "--mount", "--pid", "--net", "--uts", "--ipc", *command]
        done = subprocess.run(entered, check=False, input=stdin, capture_output=True, text=True)
        if done.returncode:
            raise ClusterError(f"{self.name}: {' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def ctr(self, *arguments: str | Path) -> str:
        """Asks its containerd about what its kubelet uses."""
        return self.run("ctr", "--address", str(self.socket), "--namespace=k8s.io", *map(str, arguments))

    def import_image(self, archive: Path) -> None:
        """Returns when pods can use it."""
        # By a path that the node's own mounts do not hide.
        with archive.open("rb") as content:
            command = ["ctr", f"--address={self.socket}", "--namespace=k8s.io", "images", "import", "-"]
            done = subprocess.run(command, check=False, stdin=content, capture_output=True, text=True)
        names = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("unpacking ")]
        if done.returncode or not names:
            why = done.stderr.strip() or "the archive names no image (`oci-archive:FILE:NAME` does)"
            raise ClusterError(f"{self.name} did not take {archive}: {why}")
        for name in names:
            self._wait_seen(name)

    def tag_image(self, name: str, other: str) -> None:
        """Gives an image that is there another name. Returns when pods can use it by that."""
        self.ctr("images", "tag", "--force", name, other)
        self._wait_seen(other)

    def _wait_seen(self, image: str) -> None:
        """Containerd's part for the kubelet learns of an image a moment later, and marks it then."""
        until(
            lambda: "io.cri-containerd.image=managed" in self.ctr("images", "list", f"name=={image}"),
            _SECONDS,
            f"{self.name}'s kubelet sees {image}, which is there",
        )

    def logs(self, characters: int = 3000) -> dict[str, str]:
        """The ends of what its programs said."""
        return {file.stem: tail(file, characters) for file in sorted(self.folder.glob("*.log"))}

    def device_marks(self, resource: str, numbers: Sequence[int]) -> list[Path]:
        """Files that make devices of a resource unhealthy."""
        return [self.folder / "unhealthy" / f"{resource.replace('/', '-')}-{number}" for number in numbers]


def _everywhere(addresses: Sequence[str]) -> str:
    """The wildcard of all of them."""
    return "::" if any(":" in address for address in addresses) else "0.0.0.0"


def _first_process(process: subprocess.Popen[bytes], log: Path) -> int:
    """The process that `unshare --fork` started in the new namespaces."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def runs() -> None:
        if process.poll() is not None:
            raise ClusterError(f"the node did not start:\n{tail(log)}")

    try:
        first, *_ = until(lambda: children.read_text().split(), _SECONDS, "the node has a first process", unless=runs)
    except TooLate as late:
        raise ClusterError(f"{late}:\n{tail(log)}") from None
    return int(first)
