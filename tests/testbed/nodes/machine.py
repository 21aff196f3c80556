"""What nodes need of the machine that they share: a bridge, and control groups. They go with the run or in the next."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Self

from testbed.controlplane.children import in_use
from testbed.controlplane.cluster import ClusterError

_GROUPS = Path("/sys/fs/cgroup")
_LINKS = Path("/sys/class/net")
_NETWORKS = range(200, 250)
_TOOLS = ("containerd", "ctr", "runc", "nft", "ip", "unshare", "nsenter", "busybox")
MOST_NODES = 16


def require() -> None:
    """Raises ClusterError if this process may not, or this machine cannot, run nodes."""
    if os.geteuid() != 0:
        raise ClusterError("nodes need namespaces, mounts and control groups of their own: run as root")
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise ClusterError(f"nodes need {', '.join(missing)}: `.ci/system-packages` installs what is missing")


def sweep() -> None:
    """Removes bridges and control groups of runs that were killed. (Their processes ended with them.)"""
    for link in _LINKS.iterdir():
        owner = _owner(link)
        if owner is not None and not in_use(owner):
            remove_bridge(link.name)
    for group in {group.name for top in _hierarchies() for group in top.glob("dop-*")}:
        if not in_use(Path(group.partition(".")[0])):
            remove_group(group)


@dataclass(frozen=True)
class Network:
    """The addresses of one version of IP: this machine has `host`, node N has `node(N)` and for its pods `pods(N)`."""

    whole: IPv4Network | IPv6Network
    prefix_length: int
    """Of this machine's and the nodes' subnet, and of each node's pods'."""

    @classmethod
    def of(cls, family: str, number: int) -> Self:
        if family == "IPv4":
            return cls(IPv4Network(f"10.{number}.0.0/16"), 24)
        return cls(IPv6Network(f"fd10:{number}::/48"), 64)

    @property
    def host(self) -> str:
        return str(self._subnet(0)[1])

    def node(self, index: int) -> str:
        return str(self._subnet(0)[index + 1])

    def pods(self, index: int) -> str:
        return str(self._subnet(index))

    def on_link(self, address: str) -> str:
        return f"{address}/{self.prefix_length}"

    def _subnet(self, index: int) -> IPv4Network | IPv6Network:
        size = 1 << self.whole.max_prefixlen - self.prefix_length
        return ip_network((int(self.whole.network_address) + index * size, self.prefix_length))


class Bridge:
    """Joins a cluster's nodes by these versions of IP."""

    def __init__(self, folder: Path, families: Sequence[str]) -> None:
        """Marked as that folder's: who finds the folder unused may remove the bridge."""
        for number in _NETWORKS:
            self.name = f"dop{number}"
            with contextlib.suppress(ClusterError):  # another cluster has it
                ip("link", "add", self.name, "type", "bridge")
                break
        else:
            raise ClusterError(f"{len(_NETWORKS)} bridges exist or none can be made: see `ip link`")
        self.networks = {family: Network.of(family, number) for family in families}
        ip("link", "set", self.name, "alias", str(folder))
        for network in self.networks.values():
            # Nobody else has the address, so IPv6 need not first ask for a second.
            nodad = ["nodad"] if network.whole.version == 6 else []
            ip("address", "add", network.on_link(network.host), "dev", self.name, *nodad)
        ip("link", "set", self.name, "up")

    @property
    def host(self) -> str:
        """This machine's first address."""
        return next(iter(self.networks.values())).host

    def link(self, index: int) -> str:
        return f"{self.name}-{index}"

    def plug_in(self, index: int, process: int) -> None:
        """A cable from the bridge to `eth0` in the network namespace of a process."""
        link = self.link(index)
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(process))
        ip("link", "set", link, "master", self.name, "up")
        for network in self.networks.values():
            ip("route", "replace", network.pods(index), "via", network.node(index))

    def unplug(self, index: int) -> None:
        with contextlib.suppress(ClusterError):  # it is out
            ip("link", "delete", self.link(index))

    def switch(self, index: int, *, on: bool) -> None:
        ip("link", "set", self.link(index), "up" if on else "down")

    def remove(self) -> None:
        remove_bridge(self.name)


def remove_bridge(bridge: str) -> None:
    """And the links to its nodes.

    A dead node's network namespace can stay for a minute, until the kernel gives up its last connections, and its link
    would stay with it.
    """
    for link in _LINKS.iterdir():
        if link.name == bridge or link.name.startswith(f"{bridge}-"):
            with contextlib.suppress(ClusterError):  # it went by itself
                ip("link", "delete", link.name)


def make_group(name: str) -> None:
    """A control group of this name in each hierarchy, which a kubelet can take as its root."""
    for top in _hierarchies():
        if (top / "cgroup.subtree_control").exists():  # version 2: what a group controls, its parent says
            for controller in (top / "cgroup.controllers").read_text().split():
                with contextlib.suppress(OSError):
                    (top / "cgroup.subtree_control").write_text(f"+{controller}")
        (top / name).mkdir()
        for file in ("cpuset.cpus", "cpuset.mems"):  # version 1: a new group has no processors
            if (top / file).exists() and not (top / "cgroup.controllers").exists():
                (top / name / file).write_text((top / file).read_text())


def remove_group(name: str) -> bool:
    """False while processes are left in it."""
    for top in _hierarchies():
        for folder, _, _ in os.walk(top / name, topdown=False):
            try:
                Path(folder).rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                return False
    return True


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise ClusterError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _hierarchies() -> Iterator[Path]:
    """One with control groups of version 2; one for each controller with version 1."""
    if (_GROUPS / "cgroup.controllers").exists():
        yield _GROUPS
        return
    for hierarchy in _GROUPS.iterdir():
        if hierarchy.is_dir() and not hierarchy.is_symlink():
            yield hierarchy


def _owner(link: Path) -> Path | None:
    """The folder that a bridge is marked with; None if it is no bridge of ours."""
    with contextlib.suppress(OSError):  # it goes meanwhile
        alias = (link / "ifalias").read_text().strip()
        if link.name.startswith("dop") and (link / "bridge").exists() and alias:
            return Path(alias)
    return None
