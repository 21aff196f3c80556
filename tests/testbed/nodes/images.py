"""Container images made of files of this machine, without a registry or an engine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from testbed.nodes.settings import PAUSE_IMAGE

BOX_IMAGE = "registry.test/box:1"
_BUSYBOX = Path("/bin/busybox")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_MEDIA = "application/vnd.oci.image"


def pause(folder: Path) -> Path:
    """The archive of the image that holds a pod's namespaces."""
    return write(folder / "pause.tar", PAUSE_IMAGE, {"busybox": _BUSYBOX}, {}, ["/busybox", "sleep", "infinity"])


def box(folder: Path) -> Path:
    """The archive of an image with a shell, small servers and curl. (The wget of Debian's static busybox crashes.)"""
    listed = subprocess.run([_BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    curl = shutil.which("curl")
    assert curl is not None, "the test image needs Debian's package curl"
    files = {"bin/busybox": _BUSYBOX, **_with_libraries(Path(curl))}
    links = {f"bin/{name}": "busybox" for name in listed if name != "busybox"}
    return write(folder / "box.tar", BOX_IMAGE, files, links, ["/bin/sh"])


def write(
    archive: Path, name: str, files: Mapping[str, Path], links: Mapping[str, str], command: Sequence[str]
) -> Path:
    """An OCI archive of one layer. `files` and `links` map paths in the image to files here and to targets of links."""
    layer = _layer(files, links)
    blobs: dict[str, bytes] = {}

    def blob(kind: str, content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": f"{_MEDIA}.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    config = {
        "architecture": _MACHINES[platform.machine()],
        "os": "linux",
        "config": {"Cmd": list(command), "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}.manifest.v1+json",
        "config": blob("config.v1+json", json.dumps(config).encode()),
        "layers": [blob("layer.v1.tar+gzip", gzip.compress(layer, compresslevel=1, mtime=0))],
    }
    top = blob("manifest.v1+json", json.dumps(manifest).encode())
    top["annotations"] = {"org.opencontainers.image.ref.name": name}
    index = {"schemaVersion": 2, "manifests": [top]}
    with tarfile.open(archive, "w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps(index).encode())
        for path, content in blobs.items():
            _add(tar, path, content)
    return archive


def _layer(files: Mapping[str, Path], links: Mapping[str, str]) -> bytes:
    unpacked = io.BytesIO()
    with tarfile.open(fileobj=unpacked, mode="w") as tar:
        for folder in ("tmp", "etc", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        for path, source in files.items():
            tar.add(source, path.lstrip("/"))
        for path, target in links.items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return unpacked.getvalue()


def _add(tar: tarfile.TarFile, path: str, content: bytes) -> None:
    entry = tarfile.TarInfo(path)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _with_libraries(program: Path) -> dict[str, Path]:
    """A program of this machine and the libraries that it needs."""
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    paths = [str(program), *(word for word in listed.split() if word.startswith("/"))]
    return {path: Path(path).resolve() for path in paths}
