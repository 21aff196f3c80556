"""The shell of a reader who has a cluster and the project's virtual environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import yaml

from testbed.controlplane import programs
from testbed.controlplane.cluster import Cluster


def environment(cluster: Cluster, namespace: str, folder: Path) -> dict[str, str]:
    """For `run_blocks`: kubectl, helm, dpipe and python, as the administrator, whose current namespace this is.

    `folder` is to hold the reader's home and settings.
    """
    tools = folder / "bin"
    tools.mkdir(parents=True)
    (tools / "kubectl").symlink_to(cluster.programs / "kubectl")
    (tools / "helm").symlink_to(programs.helm())
    settings = yaml.safe_load(cluster.kubeconfig.read_text())
    for context in settings["contexts"]:
        context["context"]["namespace"] = namespace
    kubeconfig = folder / "kubeconfig"
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(yaml.safe_dump(settings))
    return {
        # dpipe and python lie beside the interpreter that runs the tests.
        "PATH": os.pathsep.join((str(tools), str(Path(sys.executable).parent), os.defpath)),
        "HOME": str(folder),
        "KUBECONFIG": str(kubeconfig),
        # `kubectl edit` shows an editor, in which this reader changes nothing.
        "KUBE_EDITOR": "true",
    }
