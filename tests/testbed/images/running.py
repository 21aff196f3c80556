"""Programs run out of an image as a restricted pod runs them, without a node.

User 65532, or the one that is named, read-only root file system but for /tmp, no capabilities, no new privileges.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from testbed.images.building import archive, buildah, name

# $1 is the image's root, $2 and $3 are user and group; what follows runs in it. /dev has what every container has.
_AS_A_POD: Final = """
set -eu
root=$1; uid=$2; gid=$3; shift 3
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0755 dev "$root/dev"
for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"; mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
exec chroot "$root" /usr/bin/setpriv --reuid="$uid" --regid="$gid" --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all -- "$@"
"""


@dataclass(frozen=True)
class Image:
    """An image's files, read-only by agreement, and its configuration in the words of the OCI image specification."""

    root: Path
    config: dict[str, Any]

    def run(
        self,
        *command: str,
        environment: dict[str, str] | None = None,
        seconds: float = 60,
        user: tuple[int, int] = (65532, 65532),
    ) -> str:
        """What the command prints; `user` has a group too.

        Raises CalledProcessError, which has its stderr, and TimeoutExpired.
        """
        variables = [*self.config["Env"], *(f"{key}={value}" for key, value in (environment or {}).items())]
        outside = (
            "unshare",
            "--mount",
            "--pid",
            "--ipc",
            "--net",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            _AS_A_POD,
            "sh",
        )
        inside = ("/usr/bin/env", "-i", f"--chdir={self.config['WorkingDir']}", *variables, *command)
        done = subprocess.run(
            [*outside, self.root, *map(str, user), *inside], check=True, capture_output=True, text=True, timeout=seconds
        )
        return done.stdout


def last_layer(target: str) -> set[PurePosixPath]:
    """The files that the image's last layer adds or replaces."""
    with tarfile.open(archive(target)) as image:
        (manifest,) = json.load(_content(image, "manifest.json"))
        with tarfile.open(fileobj=_content(image, manifest["Layers"][-1])) as layer:
            return {PurePosixPath(member.name) for member in layer if not member.isdir()}


def _content(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    found = archive.extractfile(name)
    assert found is not None, f"{name} is no file"
    return found


@contextmanager
def opened(target: str) -> Iterator[Image]:
    """The image of this target, built if need be. Raises BuildError."""
    archive(target)
    config = json.loads(buildah("inspect", "--type=image", name(target)))["OCIv1"]["config"]
    container = buildah("from", "--pull-never", name(target)).strip()
    try:
        yield Image(Path(buildah("mount", container).strip()), config)
    finally:
        buildah("rm", container)
