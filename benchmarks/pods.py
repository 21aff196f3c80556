"""What a pipeline's pods cost: time until they are registered, by phase, and memory.

On two real nodes of this machine (kubelet, containerd), which have the images that the Dockerfile builds already. The
bundled model, cut in three and whole; first the pods of a pipeline that is new, all at once, then one that was deleted,
alone: what the old one needed to go is part of its creation. As root:

    python benchmarks/pods.py

Kubernetes tells whole seconds, so creation, scheduling and start of the container are that exact.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from testbed.deployment.load import draw, requests
from testbed.deployment.operator import installed
from testbed.deployment.pipeline import Deployed
from testbed.deployment.starts import phases
from testbed.examples import resource
from testbed.images.building import archive
from testbed.nodes.cluster import NodeCluster

MIB = 2**20


def main() -> None:
    console = Console(width=200)
    archives = [archive(target) for target in ("operator", "router", "worker")]
    with NodeCluster(nodes=2) as cluster:
        for image in archives:
            cluster.load_image(image)
        with installed(cluster), cluster.namespace("bench") as namespace:
            for example in ("digits", "digits-colocated"):
                console.print(_measured(cluster, namespace, example))


def _measured(cluster: NodeCluster, namespace: str, example: str) -> Table:
    asked = datetime.now(UTC)
    pipeline = Deployed.create(cluster, namespace, resource(example))
    pipeline.wait_ready()
    for request in requests():
        draw(pipeline, request)
    workers = [pod["metadata"]["name"] for pod in pipeline.workers()]
    rows = {f"{pod}, all at once": phases(pipeline, pod, asked) for pod in workers}
    memory = _memory(cluster, pipeline)

    alone = workers[0]
    uid = pipeline.uid(alone)
    asked = datetime.now(UTC)
    pipeline.delete_pod(alone)
    pipeline.until(lambda: pipeline.pod_ready(alone, other_than=uid), 120, f"{alone} is back")
    draw(pipeline, requests()[0])
    rows[f"{alone}, alone"] = phases(pipeline, alone, asked)

    *names, _ = next(iter(rows.values()))
    table = Table("pod", *names, "in all", "memory", title=example)
    for name, seconds in rows.items():
        # How long the first task was waited for, the client decides.
        *until_registered, _ = seconds.values()
        used = f"{memory[name.split(',')[0]] / MIB:.0f} MiB"
        table.add_row(name, *(f"{value:.1f} s" for value in (*until_registered, sum(until_registered))), used)
    table.add_row(pipeline.router_pod, *[""] * (len(table.columns) - 2), f"{memory[pipeline.router_pod] / MIB:.0f} MiB")
    pipeline.resources.delete(pipeline.name)
    pipeline.until(lambda: not pipeline.pods(), 120, "its pods are gone")
    return table


def _memory(cluster: NodeCluster, pipeline: Deployed) -> dict[str, float]:
    """Working set of each pod in bytes: what a memory limit is held against, less files that nobody reads any more."""
    pods = {str(pod["metadata"]["name"]) for pod in pipeline.pods()}
    found: dict[str, float] = {}

    def told() -> bool:
        # A kubelet looks every ten seconds or so; of a pod that it has not looked at yet it says 0.
        found.update((name, size) for node in cluster.nodes for name, size in _told(cluster, node, pipeline.namespace))
        return all(found.get(pod) for pod in pods)

    pipeline.until(told, 60, "kubelets tell of the pods' memory")
    return found


def _told(cluster: NodeCluster, node: str, namespace: str) -> Iterator[tuple[str, float]]:
    stats = json.loads(cluster.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/stats/summary"))
    for pod in stats["pods"]:
        if pod["podRef"]["namespace"] == namespace:
            yield pod["podRef"]["name"], pod.get("memory", {}).get("workingSetBytes", 0)


if __name__ == "__main__":
    main()
