"""A guest boots from the read-only image, runs one command as root in /share, a folder of the host, and powers off."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from testbed.guests.image import image

# kvm where the host's KVM runs stock kernels; emulation runs everywhere, thirty times slower.
ACCELERATOR = os.environ.get("RDMA_GUEST_ACCELERATOR", "tcg,thread=multi")
KILL_SECONDS = 10.0
UNTOLD: Final = 125
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True)
class Done:
    status: int
    """Of the command; 124 if it was not through in time, UNTOLD if the guest ended without one."""
    output: str
    """Of the command, and of the guest's kernel if it is to blame."""
    seconds: float
    begun: bool
    """Whether the command said anything."""


@dataclass(frozen=True)
class Link:
    """A cable between two guests, each of which has eth0 at its end."""

    socket: Path

    def end(self, server: bool) -> str:
        return f"stream,id=link,addr.type=unix,addr.path={self.socket},server={'on' if server else 'off'}"


class Guest:
    """A running guest: `with Guest(...) as guest: done = guest.wait(60)`."""

    def __init__(
        self,
        command: str,
        share: Path,
        *,
        name: str = "guest",
        mib: int = 1536,
        address: str = "",
        link: Link | None = None,
        listens: bool = False,
    ) -> None:
        """`mib` of memory; `address` (with prefix length) for the end of `link`, on which one end listens."""
        self._folder = tempfile.TemporaryDirectory(prefix="rdma-guest-")
        self._control = Path(self._folder.name)
        (self._control / "command").write_text(command + "\n")
        self._output = self._control / "output"
        self._begun = time.monotonic()
        self._process = subprocess.Popen(
            [*_qemu(self._control, share, name, mib, address), *_card(link, listens, name)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_end_with_parent,
        )

    def wait(self, seconds: float) -> Done:
        """Until the guest is off, at most this long from now."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return self._done(124, f"not through in {seconds:g} s")
        try:
            return self._done(int((self._control / "status").read_text()))
        except (OSError, ValueError):
            assert self._process.stderr is not None
            return self._done(UNTOLD, f"the guest gave no status; qemu: {self._process.stderr.read()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(KILL_SECONDS)
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._folder.cleanup()

    def _done(self, status: int, problem: str = "") -> Done:
        output = _text(self._output)
        begun = bool(output)
        if problem:
            output += f"\n--- {problem}; the kernel's last lines:\n{_text(self._control / 'serial')[-3000:]}"
        return Done(status, output, time.monotonic() - self._begun, begun)


def run(command: str, share: Path, *, seconds: float, mib: int = 1536) -> Done:
    """One guest for one command."""
    with Guest(command, share, mib=mib) as guest:
        done = guest.wait(seconds)
    if done.status != UNTOLD or done.begun:
        return done
    # An emulator of several processors now and then trips over a kernel that patches its own code while it boots.
    with Guest(command, share, mib=mib) as guest:
        return guest.wait(seconds)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _qemu(control: Path, share: Path, name: str, mib: int, address: str) -> list[str]:
    folder = image()
    words = f"console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nokaslr guest.name={name}"
    if address:
        words += f" guest.address={address}"
    return [
        "qemu-system-x86_64",
        *("-machine", "q35", "-accel", ACCELERATOR, "-cpu", "max", "-m", str(mib), "-smp", "2"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(folder / "vmlinux"), "-initrd", str(folder / "initrd.gz"), "-append", words),
        *("-drive", f"file={folder / 'root.ext4'},if=virtio,format=raw,readonly=on,cache=unsafe"),
        *("-fsdev", f"local,id=control,path={control},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=control,mount_tag=control"),
        *("-fsdev", f"local,id=share,path={share},security_model=none"),
        *("-device", "virtio-9p-pci,fsdev=share,mount_tag=share"),
        *("-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random"),
        *("-chardev", f"file,id=serial,path={control / 'serial'}", "-serial", "chardev:serial"),
        *("-device", "virtio-serial-pci", "-chardev", f"file,id=out,path={control / 'output'}"),
        *("-device", "virtserialport,chardev=out,name=out"),
    ]


def _card(link: Link | None, listens: bool, name: str) -> list[str]:
    if link is None:
        return ["-nic", "none"]
    mac = f"52:54:00:00:00:{zlib.crc32(name.encode()) % 250 + 1:02x}"
    return ["-netdev", link.end(listens), "-device", f"virtio-net-pci,netdev=link,mac={mac}"]


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""
