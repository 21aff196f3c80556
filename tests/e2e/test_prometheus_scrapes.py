"""A real Prometheus server finds the pods, keeps what they tell, and has an answer for every panel and every alert."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml

from testbed.controlplane.client import JSON
from testbed.deployment.load import Load, Request, requests
from testbed.deployment.operator import CHART, NAMESPACE, RELEASE
from testbed.deployment.pipeline import HEALTH_PORT, HTTP_PORT, MODEL_ROLES, Deployed
from testbed.deployment.prometheus import Prometheus, by_annotations, by_monitor, serving
from testbed.examples import resource
from testbed.nodes.cluster import NodeCluster

# Names of scrape configurations. The first two are those of users without the Prometheus operator, and what they store
# is what dashboards and alerts are asked of. The others only find: twice stored would be twice counted.
ANNOTATIONS, OPERATOR = "kubernetes-pods", "diffusion-operator"
MONITORED_PODS, MONITORED_SERVICE = "pod-monitor", "service-monitor"

APIS = ("ServiceMonitor", "PodMonitor", "PrometheusRule")
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((CHART / "dashboards").glob("*.json"))}
QUEUE = 16
# So many that most of their jobs wait for the denoiser, with what was encoded in the encoder's memory.
CLIENTS = 12
LONG_STEPS = 200
FOUND_SECONDS = 60
STORED_SECONDS = 60
FIRED_SECONDS = 60
RECOVERED_SECONDS = 240.0
# What Grafana makes of it for a scrape a second is 4 s; the machine may be busy.
RATE_INTERVAL = "15s"

# The first test of a panel sets its scene: a minute, and several on a machine that has other things to do.
pytestmark = pytest.mark.timeout(900)

NOTHING_TO_SHOW = {
    "operator: On another transport than asked for A": "test_rdma_devices shows a pipeline that fell back",
    "operator: Errors A": "no reconcile fails here",
    "operator: Errors B": "no reconcile fails here",
    "operator: Waiting and running A": "a key waits for less than a scrape's interval",
    "operator: Waiting and running B": "a reconcile takes less than a scrape's interval",
    "operator: Oldest running reconcile A": "a reconcile takes less than a scrape's interval",
    "operator: Oldest running reconcile B": "a reconcile takes less than a scrape's interval",
    "operator: Watches taken up again A": "no watch breaks here",
    "operator: Holds the Lease A": "leader election is off, as by default",
    "pipelines: Workers lost B": "whoever is killed here was told to leave first, so no job is to blame",
    "pipelines: Longest without a step A": "a stage takes less than a scrape's interval",
    "pipelines: Still to be downloaded of the model A": "the model is in the image",
    "pipelines: Pauses of downloads A": "the model is in the image",
    "pipelines: Slots B": "Mooncake says of every pull how it ended, so no late bytes are waited for",
}
"""Panels that must have data, but only zeros: with why."""


def targets() -> Iterator[Any]:
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                title = f"{name}: {panel['title']} {target['refId']}"
                yield pytest.param(title, target["expr"], id=title)


@dataclass(frozen=True)
class Scene:
    """One pipeline that serves, one that waits for a node for ever, and Prometheus, which looks on."""

    cluster: NodeCluster
    digits: Deployed
    waiting: Deployed
    prometheus: Prometheus
    rules: dict[str, JSON]

    def asked(self, expression: str) -> str:
        """As Grafana sends it."""
        values = {"$namespace": self.digits.namespace, "$pipeline": "digits", "$__rate_interval": RATE_INTERVAL}
        for name, value in values.items():
            expression = expression.replace(name, value)
        return expression


@pytest.fixture(scope="module")
def scene(cluster: NodeCluster, deploy: Callable[..., Deployed]) -> Iterator[Scene]:
    digits = deploy(pipeline("digits", maxQueuedRequests=QUEUE, leaseSeconds=3))
    nowhere = {"nodeSelector": {"kubernetes.io/hostname": "nowhere"}}
    waiting = deploy(pipeline("waiting", **dict.fromkeys((*MODEL_ROLES, "router"), nowhere)), ready=False)
    made = rendered(
        cluster,
        "monitoring.operator.kind=PodMonitor",
        "monitoring.pipelines.enabled=true",
        "monitoring.rules.enabled=true",
        "monitoring.rules.notReadyFor=2s",
        "monitoring.rules.leaseExpirations=0",
    )
    (operators,) = (item for item in made["PodMonitor"] if item["metadata"]["name"] == RELEASE)
    (pods,) = (item for item in made["PodMonitor"] if item is not operators)
    (service,) = rendered(cluster, "monitoring.operator.kind=ServiceMonitor")["ServiceMonitor"]
    (rules,) = made["PrometheusRule"]
    kubeconfig = cluster.kubeconfig
    found_only = {"metric_relabel_configs": [{"action": "drop", "regex": ".*", "source_labels": ["__name__"]}]}
    scrapes = [
        by_annotations(ANNOTATIONS, kubeconfig),
        *by_monitor(OPERATOR, operators, kubeconfig),
        *({**scrape, **found_only} for scrape in by_monitor(MONITORED_PODS, pods, kubeconfig)),
        *({**scrape, **found_only} for scrape in by_monitor(MONITORED_SERVICE, service, kubeconfig)),
    ]
    groups = rules["spec"]["groups"]
    with serving(cluster, scrapes, groups) as prometheus:
        alerts = {rule["alert"]: rule for group in groups for rule in group["rules"]}
        yield Scene(cluster, digits, waiting, prometheus, alerts)


def pipeline(name: str, **parts: Any) -> JSON:
    """examples/digits.yaml; `parts` go into the roles of their names, and others into spec.router."""
    document: JSON = resource("digits")
    document["metadata"]["name"] = name
    spec = document["spec"]
    for part, value in parts.items():
        if part in (*MODEL_ROLES, "router"):
            spec["roles"][part] = spec["roles"].get(part, {}) | value
        else:
            spec.setdefault("router", {})[part] = value
    return document


def rendered(cluster: NodeCluster, *values: str) -> dict[str, list[JSON]]:
    """The chart's objects by kind, as in a cluster with the Prometheus operator's API."""
    settings = [argument for value in values for argument in ("--set", value)]
    apis = [f"--api-versions=monitoring.coreos.com/v1/{kind}" for kind in APIS]
    text = cluster.helm("template", RELEASE, CHART, "--namespace", NAMESPACE, *apis, *settings)
    found: dict[str, list[JSON]] = {}
    for item in filter(None, yaml.safe_load_all(text)):
        found.setdefault(item["kind"], []).append(item)
    return found


# Found


def urls(scene: Scene, *namespaces: str) -> set[str]:
    """Where the metrics of all pods that run in these namespaces are."""
    found = set()
    for namespace in namespaces:
        for pod in scene.cluster.api.items(f"/api/v1/namespaces/{namespace}/pods"):
            if pod["status"]["phase"] == "Running":
                router = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "router"
                port = HTTP_PORT if router else HEALTH_PORT
                found.add(f"http://{pod['status']['podIP']}:{port}/metrics")
    return found


def found(scene: Scene, *jobs: str) -> list[str]:
    return sorted(target["scrapeUrl"] for job in jobs for target in scene.prometheus.targets(job))


@pytest.mark.parametrize(
    ("jobs", "whose"),
    [
        ((ANNOTATIONS,), "pipeline"),
        ((f"{MONITORED_PODS}/0", f"{MONITORED_PODS}/1"), "pipeline"),
        ((f"{OPERATOR}/0",), "operator"),
        ((f"{MONITORED_SERVICE}/0",), "operator"),
    ],
    ids=["annotations", "PodMonitor of pipelines", "PodMonitor of the operator", "ServiceMonitor of the operator"],
)
def test_every_pod_is_found_once_and_nothing_else(scene: Scene, jobs: tuple[str, ...], whose: str) -> None:
    wanted = sorted(urls(scene, NAMESPACE if whose == "operator" else scene.digits.namespace))
    assert len(wanted) == (1 if whose == "operator" else 1 + len(MODEL_ROLES))
    scene.prometheus.until(lambda: found(scene, *jobs) == wanted, FOUND_SECONDS, f"{jobs} find {wanted}")

    def up() -> bool:
        return all(target["health"] == "up" for job in jobs for target in scene.prometheus.targets(job))

    scene.prometheus.until(up, FOUND_SECONDS, f"all of {jobs} are up")
    if whose == "pipeline":
        told = [target["labels"] for job in jobs for target in scene.prometheus.targets(job)]
        assert {labels["namespace"] for labels in told} == {scene.digits.namespace}
        assert {labels["diffusion_operator_dev_pipeline"] for labels in told} == {"digits"}
        by_role = {labels["diffusion_operator_dev_role"]: labels["pod"] for labels in told}
        assert by_role == {role: f"digits-{role}-0" for role in (*MODEL_ROLES, "router")}
    else:
        (target,) = scene.prometheus.targets(jobs[0])
        assert (target["labels"]["job"], target["labels"]["namespace"]) == ("diffusion-operator", NAMESPACE)


def test_series_are_stored_under_their_own_labels(scene: Scene) -> None:
    wanted = {f"digits-{role}-0" for role in MODEL_ROLES}

    def stored() -> bool:
        series = scene.prometheus.query('count_over_time(diffusion_worker_build_info{namespace!=""}[1m]) > 2')
        return {item.labels["pod"] for item in series} == wanted

    scene.prometheus.until(stored, STORED_SECONDS, "three samples of each worker are stored")
    # What the operator tells of pipelines keeps their namespace, not that of the operator's pod.
    (told,) = scene.prometheus.query('diffusion_pipeline_info{name="digits"}')
    assert (told.labels["namespace"], told.labels["job"]) == (scene.digits.namespace, "diffusion-operator")


# Alerts


def firing(scene: Scene) -> dict[str, list[str]]:
    """By alert, the pipelines for which it fires."""
    return {
        name: sorted(_pipeline(alert["labels"]) for alert in rule["alerts"] if alert["state"] == "firing")
        for name, rule in scene.prometheus.rules().items()
        if rule["state"] == "firing"
    }


def _pipeline(labels: dict[str, str]) -> str:
    return labels.get("name") or labels.get("diffusion_operator_dev_pipeline", "")


def test_the_rules_load_and_only_what_is_amiss_raises_an_alert(scene: Scene) -> None:
    def evaluated() -> bool:
        return all(rule["health"] == "ok" for rule in scene.prometheus.rules().values())

    scene.prometheus.until(evaluated, FIRED_SECONDS, "all rules were evaluated")
    loaded = scene.prometheus.rules()
    assert loaded.keys() == scene.rules.keys()
    assert len(loaded) > 5
    assert {name: rule.get("lastError", "") for name, rule in loaded.items()} == dict.fromkeys(loaded, "")
    amiss = "DiffusionPipelineNotReady"
    scene.prometheus.until(lambda: amiss in firing(scene), FIRED_SECONDS, f"{amiss} fires")
    assert firing(scene) == {amiss: ["waiting"]}
    # Nor would another after more time: none is even pending.
    states = {name: rule["state"] for name, rule in scene.prometheus.rules().items()}
    assert states == {name: "firing" if name == amiss else "inactive" for name in loaded}
    (alert,) = scene.prometheus.rules()[amiss]["alerts"]
    assert alert["annotations"]["summary"] == f"Pipeline {scene.waiting.namespace}/waiting is not ready"


# Dashboards


@pytest.fixture(scope="module")
def eventful(scene: Scene, pictures: dict[Request, bytes]) -> float:
    """When it began (Unix time): a load, too many requests, a cancelled job, workers killed, a child changed."""
    digits = scene.digits
    scene.prometheus.until(lambda: len(found(scene, ANNOTATIONS)) == 4, FOUND_SECONDS, "the pods are found")
    began = scene.prometheus.now()
    pods = {role: f"digits-{role}-0" for role in MODEL_ROLES}
    before = digits.uid(pods["denoiser"])
    with Load(digits, pictures, clients=CLIENTS, seconds=RECOVERED_SECONDS).running() as load:
        digits.until(lambda: len(load.done) >= CLIENTS, 60, "jobs are done")
        overfill(digits)
        cancel_one(digits)
        put_back(scene)
        lose_what_was_encoded(scene, load, pods["encoder"])
        # It has no time to finish this one.
        being_denoised(digits)
        kill(scene.cluster, digits, pods["denoiser"])
        goes_on(digits, load, "denoiser", before)
    return began


def lose_what_was_encoded(scene: Scene, load: Load, encoder: str) -> None:
    """The denoiser can't pull from an encoder that was killed.

    Where it computes for longer than the router takes to miss the encoder, it is not even told to: then another try.
    """

    def lost() -> bool:
        before = scene.digits.uid(encoder)
        kill(scene.cluster, scene.digits, encoder)
        goes_on(scene.digits, load, "encoder", before)
        return bool(scene.prometheus.query('diffusion_worker_transfer_failures_total{role="denoiser"} > 0'))

    scene.prometheus.until(lost, RECOVERED_SECONDS, "the denoiser can't pull from an encoder that was killed")


def goes_on(digits: Deployed, load: Load, role: str, before: str) -> None:
    """Once there is another pod of the role than that with the uid `before`."""
    digits.until(
        lambda: digits.pod_ready(f"digits-{role}-0", other_than=before), RECOVERED_SECONDS, f"there is another {role}"
    )
    done = len(load.done)
    digits.until(lambda: len(load.done) >= done + CLIENTS, RECOVERED_SECONDS, "it goes on")


def overfill(digits: Deployed) -> None:
    """Asks for more at once than may wait."""
    codes: list[int] = []

    def ask(seed: int) -> None:
        body = requests()[0].body | {"seed": seed}
        codes.append(httpx.post(f"{digits.url()}/v1/jobs", json=body, timeout=30, trust_env=False).status_code)

    def refused() -> bool:
        askers = [threading.Thread(target=ask, args=(seed,)) for seed in range(2 * QUEUE)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        return 429 in codes

    digits.until(refused, 60, "a job was refused because the queue is full")
    assert set(codes) <= {202, 429}


def cancel_one(digits: Deployed) -> None:
    """A job that is being denoised."""

    def cancelled() -> bool:
        httpx.delete(being_denoised(digits), timeout=30, trust_env=False).raise_for_status()
        return digits.metric("digits-denoiser-0", "diffusion_worker_tasks_total", outcome="cancelled") > 0

    digits.until(cancelled, RECOVERED_SECONDS, "a denoiser's task was cancelled")


def being_denoised(digits: Deployed) -> str:
    """The URL of a job with seconds of work for the denoiser, which is at it."""
    body = requests()[0].body | {"num_inference_steps": LONG_STEPS}
    made: list[str] = []

    def accepted() -> bool:
        answer = httpx.post(f"{digits.url()}/v1/jobs", json=body, timeout=30, trust_env=False)
        if answer.status_code == 202:
            made.append(f"{digits.url()}/v1/jobs/{answer.json()['data'][0]['id']}")
        return bool(made)

    def begun() -> bool:
        job = httpx.get(made[0], timeout=30, trust_env=False).json()
        assert job["status"] not in ("completed", "failed"), job
        return bool(job["step"] > 0)

    digits.until(accepted, 60, "a long job is accepted")
    # All that was asked for before comes first: a full queue.
    digits.until(begun, RECOVERED_SECONDS, "it is being denoised")
    return made[0]


def kill(cluster: NodeCluster, digits: Deployed, pod: str) -> None:
    """With a second or two to say goodbye, which is all that a pod deleted at once is given."""
    cluster.kubectl("delete", "pod", pod, "--namespace", digits.namespace, "--grace-period=0", "--force")


def put_back(scene: Scene) -> None:
    """Somebody changes a child by hand, which the operator undoes."""
    path = scene.digits.resources.path("Service", "digits-router-api")
    scene.cluster.api.patch(path, {"spec": {"type": "NodePort"}})
    scene.cluster.until(
        lambda: scene.cluster.api.get(path)["spec"]["type"] == "ClusterIP", 60, "the operator has put it back"
    )


@pytest.mark.parametrize(("title", "expression"), list(targets()))
def test_a_panel_has_data(scene: Scene, eventful: float, title: str, expression: str) -> None:
    query = scene.asked(expression)
    least = 0.0 if title in NOTHING_TO_SHOW else 1e-12

    def shown() -> bool:
        return any(value >= least for series in scene.prometheus.history(query, eventful) for value in series.values)

    scene.prometheus.until(shown, STORED_SECONDS, f"{query} says more than {least}")


def test_what_happened_has_raised_alerts(scene: Scene, eventful: float) -> None:
    def states() -> dict[str, str]:
        return {name: rule["state"] for name, rule in scene.prometheus.rules().items()}

    fire = "DiffusionRouterLosesWorkers"
    scene.prometheus.until(lambda: states()[fire] == "firing", FIRED_SECONDS, f"{fire} fires")
    assert firing(scene)[fire] == ["digits"]
    assert states()["DiffusionOperatorDown"] == "inactive"
    # Hardly anything is heard of some kinds in all this time, and their watches were never even suspected.
    suspected = {series.labels["alertname"] for series in scene.prometheus.query("count_over_time(ALERTS[1h])")}
    assert fire in suspected
    assert "DiffusionOperatorWatchStuck" not in suspected
    # The pipeline is ready again, and its alert is over.
    scene.prometheus.until(
        lambda: firing(scene).get("DiffusionPipelineNotReady") == ["waiting"], FIRED_SECONDS, "digits is well again"
    )
