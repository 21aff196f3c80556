"""Which RDMA devices this process can really use.

`/sys/class/infiniband` shows every device of the node, also in a container that was given only one: the kernel does not
name-space it. Mooncake's own discovery picks from all of them, so the usable ones are found here and named to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diffusion_worker.transport.rdma_ports import ACTIVE, attribute, driver_of, ports_of, state_of

Openable = Callable[[Path], bool]

# By the kernel's driver.
_WITHOUT_CONNECTIONS: Final = {
    "efa": "is an AWS EFA adapter, which has no reliable connections (RC) as Mooncake's verbs need: EFA takes a "
    "Mooncake that is built on libfabric, which this image has not",
}


@dataclass(frozen=True)
class Device:
    """One HCA as the kernel shows it, and what keeps it from being used."""

    name: str
    obstacle: str | None

    @property
    def usable(self) -> bool:
        return self.obstacle is None


def opens(path: Path) -> bool:
    """Whether a character device can be opened for use; says no where the container may not."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def devices(root: Path = Path("/"), openable: Openable = opens, allowed: Collection[str] = frozenset()) -> list[Device]:
    """All HCAs below `root` (a file system's root), sorted by name. `allowed`: only these may be used; empty: all."""
    infiniband = root / "sys/class/infiniband"
    shown = {entry.name for entry in infiniband.iterdir()} if infiniband.is_dir() else set()
    return [
        Device(name, _refusal(name, shown, allowed) or _obstacle(root, name, openable))
        for name in sorted(shown | set(allowed))
    ]


def describe(found: list[Device]) -> str:
    """For a message to the user: what is there and why it can't be used."""
    if not found:
        return "this machine shows no RDMA device (/sys/class/infiniband is empty)"
    return "; ".join(f"{device.name}: {device.obstacle or 'usable'}" for device in found)


def _refusal(name: str, shown: Collection[str], allowed: Collection[str]) -> str | None:
    if allowed and name not in allowed:
        return "is not among spec.transport.rdma.devices"
    if name not in shown:
        return "is among spec.transport.rdma.devices, but this machine does not show it"
    return None


def _obstacle(root: Path, name: str, openable: Openable) -> str | None:
    verbs = sorted(
        entry.name
        for entry in (root / "sys/class/infiniband_verbs").glob("uverbs*")
        if attribute(entry / "ibdev") == name
    )
    if not verbs:
        return "has no uverbs device"
    if driver_of(root, name) in _WITHOUT_CONNECTIONS:
        return _WITHOUT_CONNECTIONS[driver_of(root, name)]
    if not openable(root / "dev/infiniband" / verbs[0]):
        return f"/dev/infiniband/{verbs[0]} can't be opened (was the device given to this container?)"
    states = {port.name: state_of(port) for port in ports_of(root, name)}
    if ACTIVE not in states.values():
        seen = ", ".join(f"port {port} {state or 'unknown'}" for port, state in states.items())
        return f"no port is ACTIVE ({seen or 'no ports'})"
    return None
