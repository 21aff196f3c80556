"""What nodes need of the machine that they share: a bridge, and control groups. They go with the run or in the next."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

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


class Bridge:
    """Joins a cluster's nodes. This machine has the address `host`, node N has `node(N)` and for its pods `pods(N)`."""

    def __init__(self, folder: Path, family: str) -> None:
        """Marked as that folder's: who finds the folder unused may remove the bridge."""
        for number in _NETWORKS:
            self.name = f"dop{number}"
            with contextlib.suppress(ClusterError):  # another cluster has it
                ip("link", "add", self.name, "type", "bridge")
                break
        else:
            raise ClusterError(f"{len(_NETWORKS)} bridges exist or none can be made: see `ip link`")
        self._network = ip_network(f"10.{number}.0.0/16" if family == "IPv4" else f"fd10:{number}::/48")
        self._prefix_length = 24 if family == "IPv4" else 64
        ip("link", "set", self.name, "alias", str(folder))
        # Nobody else has it, so IPv6 need not first ask for a second.
        ip("address", "add", self.on_link(self.host), "dev", self.name, *(["nodad"] if family == "IPv6" else []))
        ip("link", "set", self.name, "up")

    @property
    def host(self) -> str:
        return str(self._subnet(0)[1])

    @property
    def everything(self) -> str:
        return str(self._network)

    def node(self, index: int) -> str:
        return str(self._subnet(0)[index + 1])

    def pods(self, index: int) -> str:
        return str(self._subnet(index))

    def on_link(self, address: str) -> str:
        """With the length of the subnet of this machine and the nodes."""
        return f"{address}/{self._prefix_length}"

    def _subnet(self, index: int) -> IPv4Network | IPv6Network:
        size = 1 << self._network.max_prefixlen - self._prefix_length
        return ip_network((int(self._network.network_address) + index * size, self._prefix_length))

    def link(self, index: int) -> str:
        return f"{self.name}-{index}"

    def plug_in(self, index: int, process: int) -> None:
        """A cable from the bridge to `eth0` in the network namespace of a process."""
        link = self.link(index)
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(process))
        ip("link", "set", link, "master", self.name, "up")
        ip("route", "replace", self.pods(index), "via", self.node(index))

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
