"""The images by themselves, each run as a restricted pod runs it."""

from __future__ import annotations

import json
import subprocess
from pathlib import PurePosixPath

import pytest

from testbed.images.building import TARGETS, version
from testbed.images.running import last_layer, opened

MODULES = {"operator": "diffusion_operator", "router": "diffusion_router", "worker": "diffusion_worker", "cli": "dpipe"}

# Imports all of the packages' modules, for what a program imports late is as easily left out.
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print("imported")
"""


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_without_rights_and_holds_no_more_than_it_needs(target: str) -> None:
    with opened(target) as image:
        assert image.config["User"] == "65532:65532"
        assert image.config["StopSignal"] == "SIGTERM"
        with pytest.raises(subprocess.CalledProcessError, match="returned non-zero") as refused:
            image.run("sh", "-c", "echo >/opt/app/x")
        assert "Read-only file system" in refused.value.stderr
        tools = image.run("sh", "-c", "for t in pip pip3 cc gcc g++ clang ld make; do command -v $t; done; true")
        assert tools == ""
        assert "usage" in image.run(*image.config["Entrypoint"], "--help").lower()
        assert "imported" in image.run("python", "-c", IMPORT_ALL, MODULES[target], seconds=120)
        torch = image.run("python", "-c", "from importlib.util import find_spec; print(find_spec('torch') is not None)")
        assert torch.strip() == str(target == "worker")


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_whatever_user_it_is_given(target: str) -> None:
    """As on OpenShift: of a range of the namespace's, in group 0, without an entry in /etc/passwd."""
    with opened(target) as image:
        user = (1000680000, 0)
        assert image.run("id", "-u", user=user).strip() == "1000680000"
        assert "usage" in image.run(*image.config["Entrypoint"], "--help", user=user).lower()
        assert "imported" in image.run("python", "-c", IMPORT_ALL, MODULES[target], seconds=120, user=user)
        if target == "worker":
            # Loads the bundled model and draws with it, whole and cut.
            check = ("python", "-m", "diffusion_worker.model.check", "digits", "--json")
            assert json.loads(image.run(*check, seconds=300, user=user))["identical"] is True


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_says_what_it_is(target: str) -> None:
    with opened(target) as image:
        prefix = "org.opencontainers.image."
        labels = {
            key.removeprefix(prefix): value for key, value in image.config["Labels"].items() if key.startswith(prefix)
        }
    assert (labels["title"], labels["version"], labels["licenses"]) == (target, version(), "Apache-2.0")
    assert labels["description"]
    # What a build was not told.
    assert (labels["revision"], labels["created"]) == ("unknown", "unknown")


INSTALLED = """
import importlib.metadata, json
found = {}
for item in importlib.metadata.distributions():
    # The first is what is imported; Debian's of the same name is behind it.
    found.setdefault(item.metadata["Name"].lower().replace("_", "-").replace(".", "-"), item.version)
print(json.dumps(found))
"""


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_lists_what_is_installed_in_it(target: str) -> None:
    with opened(target) as image:
        bill = json.loads(image.run("cat", "/opt/venv/sbom.cdx.json"))
        installed = json.loads(image.run("python", "-c", INSTALLED))
    listed = {item["name"].lower().replace("_", "-").replace(".", "-"): item["version"] for item in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    del installed["diffusion-operator"]  # the image itself
    assert listed == installed


@pytest.mark.parametrize("target", TARGETS)
def test_an_edit_of_the_code_changes_the_last_layer_alone(target: str) -> None:
    files = last_layer(target)
    assert PurePosixPath(f"opt/app/{MODULES[target]}/__init__.py") in files
    assert [file for file in files if not file.is_relative_to("opt/app")] == []


def test_a_workers_image_draws_the_bundled_digits_the_same_whole_and_cut() -> None:
    with opened("worker") as image:
        report = json.loads(image.run("python", "-m", "diffusion_worker.model.check", "digits", "--json", seconds=120))
    assert report["identical"] is True


def test_a_workers_image_transfers_over_tcp() -> None:
    start = (
        "from mooncake.engine import TransferEngine as E; print(E().initialize('127.0.0.1', 'P2PHANDSHAKE', 'tcp', ''))"
    )
    with opened("worker") as image:
        assert image.run("python", "-c", start).split()[-1] == "0"
