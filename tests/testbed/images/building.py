"""Archives of images, each built once for what goes into it.

buildah builds the very Dockerfile that users build, on a base image of the name that it asks for, which `base.sh` makes
of Debian's packages. All is kept in the project's cache; this machine's own store of buildah is not touched.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from filelock import FileLock

from testbed import cache
from testbed.images import host

ROOT: Final = Path(__file__).parents[3]
BASE_SCRIPT: Final = Path(__file__).with_name("base.sh")
TARGETS: Final = ("operator", "router", "worker", "cli")
# A quarter of what PyPI's torch would take, and of the time to load it on a node.
ARGUMENTS: Final[Mapping[str, str]] = {"TORCH": "debian", "MOONCAKE": "cpu"}
_BUILD_SECONDS: Final = 40 * 60  # 5 minutes on two idle cores
_EPOCH: Final = "1700000000"


class BuildError(Exception):
    """An image could not be built; says what to do."""


def version() -> str:
    project: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return project


def name(target: str) -> str:
    """By which the chart and the operator ask for it, with the registry that a node adds to a name without one."""
    return f"docker.io/diffusion-operator/{target}:{version()}"


def archive(target: str) -> Path:
    """A Docker archive of the image, which containerd imports. Raises BuildError."""
    while not (file := _file(target)).exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        # One build at a time: the targets share stages.
        with FileLock(file.with_name("build.lock"), timeout=_BUILD_SECONDS):
            if not file.exists():
                _build(target)
                # Sources that changed meanwhile may be in the image: it is not what the file's name says.
                if _file(target) == file:
                    _export(target, file)
    return file


def _file(target: str) -> Path:
    return cache.root() / "images" / f"{target}-{_digest()}.tar"


def _export(target: str, file: Path) -> None:
    draft = file.with_suffix(".draft")
    # Left behind where a build was ended; buildah does not write over it.
    draft.unlink(missing_ok=True)
    buildah("push", "--quiet", name(target), f"docker-archive:{draft}:{name(target)}")
    for old in file.parent.glob(f"{target}-*.tar"):
        old.unlink()
    draft.rename(file)


def _build(target: str) -> None:
    environment = {**os.environ, "BUILDAH": " ".join(_buildah_command()), "SOURCE_DATE_EPOCH": _EPOCH}
    done = subprocess.run(["sh", BASE_SCRIPT], env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{BASE_SCRIPT} failed; it needs root, buildah and mmdebstrap:\n{done.stderr[-4000:]}")
    arguments = [f"--build-arg={key}={value}" for key, value in ARGUMENTS.items()]
    with tempfile.TemporaryDirectory(prefix="images-") as folder:
        buildah(
            *("bud", "--pull-never", "--layers", "--force-rm"),
            # No more than a chroot: needs no OCI runtime, which may not work inside a container.
            *("--isolation", "chroot", "--network", "host"),
            *host.volumes(Path(folder)),
            f"--timestamp={_EPOCH}",
            *arguments,
            f"--target={target}",
            f"--tag={name(target)}",
            str(ROOT),
        )


def buildah(*arguments: str) -> str:
    """What buildah prints, of the project's own store. Raises BuildError."""
    done = subprocess.run([*_buildah_command(), *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"buildah {' '.join(arguments)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def _buildah_command() -> list[str]:
    store = cache.root() / "buildah"
    return ["buildah", f"--root={store}", "--runroot=/run/diffusion-operator-buildah", "--storage-driver=overlay"]


def _digest() -> str:
    digest = hashlib.sha256(repr(sorted(ARGUMENTS.items())).encode())
    for file in sorted([ROOT / "Dockerfile", ROOT / ".dockerignore", BASE_SCRIPT, *_sources()]):
        digest.update(f"{file.relative_to(ROOT)}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    """What reaches a build: an image can be made of nothing else."""
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line.startswith("!"):
            continue
        path = ROOT / line.removeprefix("!")
        yield from [path] if path.is_file() else _files(path)


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield path
