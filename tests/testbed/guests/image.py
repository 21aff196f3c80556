"""What the guests run from: kernel, initrd and root disk, built once a machine, and the project as this run has it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

from testbed import cache

ROOT = Path(__file__).parents[3]
SOURCES = Path(__file__).parent / "guest"
EXTRAS = ("worker", "mooncake-cpu")
TOOLS = ("pytest", "hypothesis")
HOST_PROGRAMS = ("qemu-system-x86_64", "mmdebstrap", "busybox", "cpio", "mke2fs")
BUILD_SECONDS = 30 * 60  # 75 s on two idle cores


class ImageError(Exception):
    """The image could not be made; says what to do."""


def image() -> Path:
    """The folder with vmlinux, initrd.gz and root.ext4, in the cache under a hash of what it is made from."""
    requirements = "\n".join(_requirements()) + "\n"
    digest = hashlib.sha256(requirements.encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    folder = cache.root() / "rdma-guest" / digest.hexdigest()[:16]

    def make(draft: Path) -> None:
        _build(draft, requirements)
        for other in folder.parent.iterdir():  # a gigabyte or two each
            if other.is_dir() and not other.name.startswith("."):
                shutil.rmtree(other)

    return cache.made_once(folder, make, seconds=BUILD_SECONDS)


def install_project(folder: Path) -> None:
    """What a guest sees as /share: the project's wheel, unpacked in `site`, its tests and its examples."""
    uv("pip", "install", "--no-deps", "--target", str(folder / "site"), str(ROOT))
    for name in ("tests", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "out").mkdir()


def uv(*arguments: str) -> None:
    done = subprocess.run([_uv(), *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise ImageError(f"uv {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def _build(folder: Path, requirements: str) -> None:
    if missing := [program for program in HOST_PROGRAMS if not shutil.which(program, path=_path())]:
        raise ImageError(f"{', '.join(missing)} not found: run `bash .ci/system-packages --rdma` as root")
    if os.geteuid() != 0:
        raise ImageError("building the guest's image needs root (chroot): run `make test-rdma` as root once")
    file = folder / "requirements.txt"
    file.write_text(requirements)
    done = subprocess.run(
        ["bash", str(SOURCES / "build.sh"), str(folder), str(file)],
        env={**os.environ, "UV": _uv()},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_SECONDS,
    )
    if done.returncode:
        raise ImageError(f"the guest's image was not built:\n{done.stdout[-4000:]}")


def _requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]
    return wanted + [line for line in extras["dev"] if line.startswith(TOOLS)]


def _uv() -> str:
    """The one that `make setup` put into the cache."""
    found = [os.environ.get("UV"), *map(str, cache.root().glob("uv-*/bin/uv")), shutil.which("uv")]
    try:
        return next(path for path in found if path)
    except StopIteration:
        raise ImageError("uv not found: run `make setup`, or set UV to its path") from None


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
