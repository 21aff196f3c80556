"""What the operator costs the API server: hundreds of pipelines made, edited, left alone, and taken up after a crash.

The control plane is a real one (etcd, API server, controllers, scheduler) with KWOK's nodes, all on this machine, so
that everybody shares its cores. In the same run a plain client makes the same children by itself, with eight
connections and no pipelines: that is what these objects cost the API server and its controllers in any case. The client
only creates; the operator applies, as whoever wants to change fields later must.

Beside them stands LeaderWorkerSet (a Go operator, 1,000 objects of 2 StatefulSets and a Service each), measured on a
machine of the same kind; its figures are of that run, not of this one.

    python benchmarks/operator_at_scale.py [--sizes 100,1000] [--rest SECONDS]

The name: a file `operator.py` here would be what the other benchmarks import as Python's own `operator`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from testbed.controlplane.cluster import Cluster  # noqa: E402
from testbed.controlplane.operators import Operator, operator_user  # noqa: E402

USER = "bench:operator"
GROUP = "/apis/diffusion-operator.dev/v1alpha1"
CONNECTIONS = 8
EDITS = 30
# Between edits, for what the one before set off: pods, endpoints, status.
EDIT_PAUSE = 2.0
# Longer than the operator waits with a status that tells of mere progress.
QUIET = 12.0
PODS_A_NODE = 500
COLLECTIONS = {
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Service": "/api/v1/namespaces/{}/services",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
}
LWS = {
    "of the plain client's time": "3.0x",
    "requests an object": "13.3",
    "memory": "188 MiB",
    "edit to StatefulSet, p50": "18 ms",
    "restart to in sync": "10 s",
    "writes at restart": "1000",
    "writes at rest": "0",
}


@dataclass
class Figures:
    pipelines: int
    children: float = 0.0
    """A pipeline."""
    made: float = 0.0
    """Seconds until all pods of all pipelines were ready."""
    plain: float = 0.0
    """Seconds until all pods of the plain client's children were."""
    requests: float = 0.0
    """A pipeline, by the operator, while they were made."""
    memory: float = 0.0
    cpu: float = 0.0
    """Seconds of the operator's, while they were made."""
    rest: int = 0
    """Writes while nothing happened."""
    edits: list[float] = field(default_factory=list)
    restart: float = 0.0
    restart_writes: int = 0


def pipeline(number: int) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "examples/digits-colocated.yaml").read_text())
    return {**document, "metadata": {"name": f"p{number}", "namespace": "bench"}}


def warm_up(cluster: Cluster) -> None:
    """Have the API server prepare for the new kind, which takes it seconds, once."""
    path = f"{GROUP}/namespaces/bench/diffusionpipelines"
    cluster.api.post(path, pipeline(-1) | {"metadata": {"name": "warm-up", "namespace": "bench"}})
    wait(lambda: all_ready(cluster, "bench", 2), "the first pipeline's pods", seconds=60)
    cluster.api.delete(f"{path}/warm-up")
    wait(lambda: all_ready(cluster, "bench", 0), "nothing left of the first pipeline", seconds=120)
    wait_quiet(cluster)


async def create_all(cluster: Cluster, items: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """POST each, with `CONNECTIONS` at once."""
    session = client(cluster)
    slots = asyncio.Semaphore(CONNECTIONS)

    async def create(path: str, body: dict[str, Any]) -> None:
        async with slots, session.post(path, json=body) as answer:
            assert answer.status == 201, await answer.text()

    async with session:
        await asyncio.gather(*(create(path, body) for path, body in items))


def client(cluster: Cluster) -> aiohttp.ClientSession:
    import ssl

    certificate = cluster.authority.issue(f"bench-{time.monotonic_ns()}", "bench:client", ["system:masters"])
    tls = ssl.create_default_context(cafile=str(cluster.authority.certificate.file))
    tls.load_cert_chain(certificate.file, certificate.key)
    return aiohttp.ClientSession(base_url=cluster.url, connector=aiohttp.TCPConnector(ssl=tls, limit=CONNECTIONS))


def wait(condition: Callable[[], bool], what: str, *, seconds: float, pause: float = 0.5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(pause)


def all_ready(cluster: Cluster, namespace: str, stateful_sets: int) -> bool:
    """One list a look, and only as often as it takes the server little time."""
    found = cluster.api.items(COLLECTIONS["StatefulSet"].format(namespace))
    ready = [one for one in found if one.get("status", {}).get("readyReplicas", 0) >= one["spec"]["replicas"]]
    return len(ready) == stateful_sets


def children_of(cluster: Cluster) -> list[tuple[str, dict[str, Any]]]:
    """What the operator made, as a client would create it elsewhere."""
    found = []
    for kind, path in COLLECTIONS.items():
        items = cluster.api.items(path.format("bench"), labelSelector="app.kubernetes.io/managed-by=diffusion-operator")
        for item in items:
            metadata = {name: item["metadata"][name] for name in ("name", "labels") if name in item["metadata"]}
            body = {name: value for name, value in item.items() if name not in {"status", "metadata"}}
            if body.get("spec", {}).get("clusterIP") not in {None, "None"}:
                body["spec"] = {k: v for k, v in body["spec"].items() if k not in {"clusterIP", "clusterIPs"}}
            api = "apps/v1" if kind == "StatefulSet" else "v1"
            found.append((path.format("plain"), {**body, "apiVersion": api, "kind": kind, "metadata": metadata}))
    return found


async def edit_latencies(cluster: Cluster, pipelines: int) -> list[float]:
    """Seconds from an edit's answer being asked for to the StatefulSet's new spec being seen by a watch."""
    found: list[float] = []
    async with client(cluster) as session:
        listed = await (await session.get(COLLECTIONS["StatefulSet"].format("bench"), params={"limit": "1"})).json()
        query = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=30)
        async with session.get(COLLECTIONS["StatefulSet"].format("bench"), params=query, timeout=timeout) as watch:
            for number in range(EDITS):
                name = f"p{number * 7919 % pipelines}"
                replicas = 2 + number // pipelines
                patch = {"spec": {"roles": {"denoiser": {"replicas": replicas}}}}
                headers = {"Content-Type": "application/merge-patch+json"}
                path = f"{GROUP}/namespaces/bench/diffusionpipelines/{name}"
                began = time.monotonic()
                editing = asyncio.create_task(session.patch(path, json=patch, headers=headers))
                async for line in watch.content:
                    live = json.loads(line)["object"]
                    if live["metadata"]["name"] == f"{name}-denoiser" and live["spec"]["replicas"] == replicas:
                        break
                found.append(time.monotonic() - began)
                (await editing).release()
                await asyncio.sleep(EDIT_PAUSE)
    return found


def measure(pipelines: int, rest: float, folder: Path) -> Figures:
    figures = Figures(pipelines)
    with Cluster() as cluster:
        cluster.kubectl("apply", "-f", ROOT / "crds")
        for number in range(max(2, 6 * pipelines // PODS_A_NODE)):
            cluster.add_node(f"node-{number}")
        cluster.add_namespace("bench")
        cluster.add_namespace("plain")
        operator_user(cluster, USER)
        # KWOK's routers answer nobody; an address that refuses at once is what comes next to that.
        flags = ("--resync-seconds=20", "--log-level=warning", "--router-address=127.0.0.1:1")
        with Operator(cluster.kubeconfig_of(USER), *flags, log=folder / "operator.log") as operator:
            warm_up(cluster)
            cpu = operator.metric("process_cpu_seconds_total")
            mark = cluster.audit.mark()
            began = time.monotonic()
            path = f"{GROUP}/namespaces/bench/diffusionpipelines"
            asyncio.run(create_all(cluster, ((path, pipeline(number)) for number in range(pipelines))))
            pause = max(0.1, pipelines / 500)
            wait(
                lambda: all_ready(cluster, "bench", 2 * pipelines),
                "pods of the pipelines",
                seconds=60 + pipelines,
                pause=pause,
            )
            figures.made = time.monotonic() - began
            conditions = {"type": "Ready", "status": "True"}
            wait(
                lambda: operator.metric("diffusion_pipeline_condition", **conditions) == pipelines,
                "pipelines Ready",
                seconds=60,
            )
            wait_quiet(cluster)
            figures.cpu = operator.metric("process_cpu_seconds_total") - cpu
            asked = cluster.audit.entries(mark, user=USER)
            figures.requests = sum(1 for entry in asked if entry.verb not in {"watch", "list"}) / pipelines
            made = children_of(cluster)
            figures.children = len(made) / pipelines

            mark = cluster.audit.mark()
            time.sleep(rest)
            figures.rest = len(cluster.audit.writes(mark, user=USER))
            figures.edits = asyncio.run(edit_latencies(cluster, pipelines))
            wait_quiet(cluster)
            figures.memory = operator.metric("process_resident_memory_bytes") / 2**20

            operator.kill()
            mark = cluster.audit.mark()
            began = time.monotonic()
            operator.start(ready_within=120)
            wait(lambda: settled(operator, pipelines), "everything compared", seconds=120, pause=0.1)
            figures.restart = time.monotonic() - began
            time.sleep(10)
            figures.restart_writes = len(cluster.audit.writes(mark, user=USER))
            figures.memory = max(figures.memory, operator.metric("process_resident_memory_bytes") / 2**20)
    with Cluster() as cluster:
        for number in range(max(2, 6 * pipelines // PODS_A_NODE)):
            cluster.add_node(f"node-{number}")
        cluster.add_namespace("plain")
        began = time.monotonic()
        asyncio.run(create_all(cluster, made))
        wait(
            lambda: all_ready(cluster, "plain", 2 * pipelines),
            "pods of the plain client",
            seconds=60 + pipelines,
            pause=pause,
        )
        figures.plain = time.monotonic() - began
    return figures


def wait_quiet(cluster: Cluster) -> None:
    """Until the operator's status and Events of what happened are written."""
    deadline = time.monotonic() + 180
    mark = cluster.audit.mark()
    while time.monotonic() < deadline:
        time.sleep(QUIET)
        if not cluster.audit.writes(mark, user=USER):
            return
        mark = cluster.audit.mark()
    raise TimeoutError("the operator still writes after three minutes")


def settled(operator: Operator, at_least: int) -> bool:
    return (
        operator.metric("workqueue_depth") == 0
        and operator.metric("controller_runtime_active_workers") == 0
        and operator.metric("controller_runtime_reconcile_total") >= at_least
    )


def table(results: list[Figures], rest: float) -> Table:
    drawn = Table(title="the operator, its goals, and LeaderWorkerSet")
    drawn.add_column("")
    for one in results:
        drawn.add_column(f"{one.pipelines} pipelines", justify="right")
    drawn.add_column("goal", justify="right")
    drawn.add_column("LWS, 1,000", justify="right")

    def row(name: str, goal: str, value: Callable[[Figures], str]) -> None:
        drawn.add_row(name, *(value(one) for one in results), goal, LWS.get(name, ""))

    row("children of each", "", lambda one: f"{one.children:.0f}")
    row("until all pods are ready", "", lambda one: f"{one.made:.1f} s")
    row("the plain client", "", lambda one: f"{one.plain:.1f} s")
    row("of the plain client's time", "<= 1.5x", lambda one: f"{one.made / one.plain:.2f}x")
    row("requests an object", "<= children + 3", lambda one: f"{one.requests:.1f}")
    row("memory", "<= 250 MiB", lambda one: f"{one.memory:.0f} MiB")
    row("CPU of the operator", "", lambda one: f"{one.cpu:.1f} s")
    row("edit to StatefulSet, p50", "<= 25 ms", lambda one: f"{statistics.median(one.edits) * 1e3:.0f} ms")
    row("edit to StatefulSet, worst", "", lambda one: f"{max(one.edits) * 1e3:.0f} ms")
    row("writes at rest", "0", lambda one: f"{one.rest} in {rest:.0f} s")
    row("restart to in sync", "<= 10 s", lambda one: f"{one.restart:.1f} s")
    row("writes at restart", "0", lambda one: str(one.restart_writes))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description="What the operator costs the API server.")
    parser.add_argument("--sizes", default="100,1000", help="pipelines, separated by commas")
    parser.add_argument("--rest", type=float, default=60.0, help="seconds at rest, with a resync every 20 s")
    arguments = parser.parse_args()
    console = Console()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for size in map(int, arguments.sizes.split(",")):
            console.print(f"{size} pipelines …")
            results.append(measure(size, arguments.rest, Path(folder)))
    console.print(table(results, arguments.rest))


if __name__ == "__main__":
    main()
