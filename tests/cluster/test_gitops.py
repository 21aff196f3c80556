"""What tools make of a pipeline that was just made, is on its way, ready, faulty for good, suspended, or just edited.

Each is a real object, as the API server gives it. The rules of Flux and Argo CD are those that docs/gitops.md shows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cel
import pytest
import yaml
from lupa.lua51 import LuaRuntime, lua_type

from cluster.docs.played import EveryWorkerIsRegistered
from cluster.user import DIGITS, User
from testbed.controlplane.client import JSON
from testbed.controlplane.cluster import Cluster, ClusterError
from testbed.controlplane.operators import Operator, operator_user
from testbed.documents import PAGES
from testbed.examples import EXAMPLES

PAGE = next(page for page in PAGES if page.path == "docs/gitops.md")
STATES = ("made", "on its way", "ready", "faulty", "suspended", "edited")
FAULTY = {"decoder": {"resources": {"requests": {"cpu": 2}, "limits": {"cpu": 0.5}}}}
NOWHERE = {"encoder": {"nodeSelector": {"no": "such-node"}}}


@pytest.fixture(scope="module")
def seen(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, JSON]]:
    """A pipeline in each of STATES."""
    with contextlib.ExitStack() as stack:
        unserved = stack.enter_context(cluster.namespace("gitops-unserved"))
        served = stack.enter_context(cluster.namespace("gitops-served"))
        operator_user(cluster, "operator:gitops", namespaces=[served])
        router = stack.enter_context(EveryWorkerIsRegistered(cluster, only=(served, "ready")))
        log = tmp_path_factory.mktemp("gitops") / "operator.log"
        flags = (f"--watch-namespaces={served}", router.flag)
        operator = stack.enter_context(Operator(cluster.kubeconfig_of("operator:gitops"), *flags, log=log))

        def user(name: str, namespace: str = served, **spec: Any) -> User:
            made = User(cluster, namespace, name)
            made.make(DIGITS, **spec)
            return made

        found = {"made": user("made", unserved).live()}
        waiting = user("waiting", roles=NOWHERE)
        waiting.until_condition("Progressing", "True", "Starting", "encoder: 0 of 1 pod ready")
        faulty = user("faulty", roles=FAULTY)
        faulty.until_condition("Stalled", "True", "InvalidSpec")
        suspended = user("suspended", suspend=True)
        suspended.until_condition("Progressing", "False", "Suspended")
        ready = user("ready")
        ready.until_ready()
        found |= {"on its way": waiting.live(), "faulty": faulty.live(), "suspended": suspended.live()}
        found["ready"] = ready.live()
        operator.stop()
        ready.edit(sharedMemorySize="2Gi")
        found["edited"] = ready.live()
        yield found


def test_status_conditions_and_scalers_say_which_generation_they_speak_of(seen: Mapping[str, JSON]) -> None:
    observed = {state: item["status"]["observedGeneration"] for state, item in seen.items()}
    generations = {state: item["metadata"]["generation"] for state, item in seen.items()}
    assert observed == {**dict.fromkeys(STATES, 1), "made": -1}
    assert generations == {**dict.fromkeys(STATES, 1), "edited": 2}
    for state, item in seen.items():
        told = {one["type"]: one["observedGeneration"] for one in item["status"]["conditions"]}
        assert told.keys() >= {"Ready", "Available", "Reconciled", "Reconciling", "Stalled"}
        assert set(told.values()) == {observed[state]}, state


def test_nobody_takes_a_scaler_for_one_that_is_followed_before_the_operator_says_so(
    cluster: Cluster, namespace: str, operators: Callable[..., Operator]
) -> None:
    user = User(cluster, namespace, "digits")
    scaler = {
        "apiVersion": "diffusion-operator.dev/v1alpha1",
        "kind": "DiffusionPipelineRoleScaler",
        "metadata": {"name": "digits-denoiser"},
        "spec": {"pipelineRef": {"name": "digits"}, "role": "denoiser"},
    }
    made = user.api.post(user.scalers, scaler)
    (told,) = user.api.get(f"{user.scalers}/digits-denoiser")["status"]["conditions"]
    assert (told["type"], told["status"], told["observedGeneration"]) == ("Bound", "Unknown", -1)
    user.api.delete(f"{user.scalers}/{made['metadata']['name']}")
    user.make(roles={"denoiser": {"scaling": {"mode": "External"}}})
    operators()

    def bound() -> bool:
        live = user.scaler()
        (one,) = live["status"]["conditions"]
        seen = {live["status"]["observedGeneration"], one["observedGeneration"]}
        return one["status"] == "True" and seen == {live["metadata"]["generation"]}

    cluster.until(bound, 30, "the scaler is bound")
    user.set_scaler(3)
    cluster.until(lambda: user.scaler()["metadata"]["generation"] == 2 and bound(), 30, "the scaler is bound anew")


# Flux


FLUX = {
    "made": "InProgress",
    "on its way": "InProgress",
    "ready": "Current",
    "faulty": "Failed",
    "suspended": "Current",
    "edited": "InProgress",
}


def flux(rules: Mapping[str, str], item: JSON) -> str:
    """In the order that Flux' RFC 0009 lays down."""
    if item["status"].get("observedGeneration", item["metadata"]["generation"]) != item["metadata"]["generation"]:
        return "InProgress"
    for rule, status in (("inProgress", "InProgress"), ("failed", "Failed"), ("current", "Current")):
        if cel.compile(rules[rule]).execute(cel.Context(variables=item)):
            return status
    return "InProgress"


@pytest.mark.parametrize("state", STATES)
def test_flux_judges_by_the_pages_expressions(state: str, seen: Mapping[str, JSON]) -> None:
    (shown,) = (block.text for block in PAGE.blocks if block.file == "kustomization.yaml")
    (rules,) = yaml.safe_load(shown)["spec"]["healthCheckExprs"]
    assert (rules["apiVersion"], rules["kind"]) == (seen[state]["apiVersion"], seen[state]["kind"])
    assert flux(rules, seen[state]) == FLUX[state]


# Argo CD


ARGO_CD = {
    "made": ("Progressing", "Waiting for the operator"),
    "on its way": ("Progressing", "encoder: 0 of 1 pod ready"),
    "ready": ("Healthy", "all roles are ready"),
    "faulty": ("Degraded", "a request must not be above the limit"),
    "suspended": ("Suspended", "spec.suspend is true"),
    "edited": ("Progressing", "Waiting for the operator"),
}


def argo_cd(script: str, item: JSON) -> tuple[str, str]:
    """Lua 5.1, as Argo CD has it: with the object as `obj`, and nothing that reaches out."""
    lua = LuaRuntime(register_eval=False, register_builtins=False)
    for library in ("io", "os", "package", "require", "debug", "dofile", "loadfile"):
        lua.globals()[library] = None
    lua.globals().obj = lua.table_from(item, recursive=True)
    health = lua.execute(script)
    assert lua_type(health) == "table"
    return health.status, health.message


@pytest.mark.parametrize("state", STATES)
def test_argo_cd_judges_by_the_pages_rule(state: str, seen: Mapping[str, JSON]) -> None:
    (shown,) = (block.text for block in PAGE.blocks if block.file == "argocd-cm.yaml")
    group = seen[state]["apiVersion"].partition("/")[0]
    script = yaml.safe_load(shown)["data"][f"resource.customizations.health.{group}_{seen[state]['kind']}"]
    status, message = argo_cd(script, seen[state])
    assert status == ARGO_CD[state][0]
    assert ARGO_CD[state][1] in message


@pytest.mark.parametrize("status", [None, {}, {"observedGeneration": 1}])
def test_argo_cds_rule_takes_a_pipeline_of_an_older_definition_for_one_on_its_way(status: JSON | None) -> None:
    (shown,) = (block.text for block in PAGE.blocks if block.file == "argocd-cm.yaml")
    (script,) = yaml.safe_load(shown)["data"].values()
    item = {"metadata": {"generation": 1}, **({} if status is None else {"status": status})}
    assert argo_cd(script, item)[0] == "Progressing"


# kubectl and helm


@pytest.fixture
def user(cluster: Cluster, namespace: str) -> User:
    return User(cluster, namespace, "digits")


@pytest.fixture
def router(user: User) -> Iterator[EveryWorkerIsRegistered]:
    with EveryWorkerIsRegistered(user.cluster, only=(user.namespace, user.name)) as running:
        yield running


@pytest.fixture
def serve(operators: Callable[..., Operator], router: EveryWorkerIsRegistered) -> Callable[[], Operator]:
    """Starts an operator for the test's namespace."""
    return lambda: operators(router.flag)


def waits(user: User, what: str) -> None:
    """`kubectl wait` for what is not so."""
    with pytest.raises(ClusterError, match="timed out waiting for the condition"):
        user.kubectl("wait", "dpipe/digits", f"--for={what}", "--timeout=1s")


def test_kubectl_waits_for_a_pipeline(user: User, serve: Callable[[], Operator]) -> None:
    user.make()
    for what in ("condition=Ready", "condition=Stalled", "condition=Stalled=False", "jsonpath={.status.phase}=Ready"):
        waits(user, what)
    operator = serve()
    user.kubectl("wait", "dpipe/digits", "--for=condition=Ready", "--timeout=60s")
    user.kubectl("wait", "dpipe/digits", "--for=jsonpath={.status.phase}=Ready", "--timeout=60s")
    user.kubectl("wait", "dpipe/digits", "--for=condition=Reconciling=False", "--timeout=60s")

    operator.stop()
    user.edit(suspend=True)
    waits(user, "condition=Ready")  # which it was before the edit
    operator.start()
    user.kubectl("wait", "dpipe/digits", "--for=jsonpath={.status.phase}=Suspended", "--timeout=60s")
    waits(user, "condition=Ready")
    user.edit(suspend=False, roles=FAULTY)
    user.kubectl("wait", "dpipe/digits", "--for=condition=Stalled", "--timeout=60s")
    waits(user, "condition=Ready")


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """That of the page, with the first example and some of its values."""
    (tmp_path / "templates").mkdir()
    (shown,) = (block.text for block in PAGE.blocks if block.file == "Chart.yaml")
    (tmp_path / "Chart.yaml").write_text(shown)
    (tmp_path / "values.yaml").write_text("{suspend: , tag: , limit: }\n")
    manifest = (EXAMPLES / "digits.yaml").read_text()
    given = "spec:\n  suspend: {{ .Values.suspend }}\n  image: {tag: {{ .Values.tag }}}\n"
    limits = "    decoder:\n      resources: {requests: {cpu: 0.5}, limits: {cpu: {{ .Values.limit }}}}\n"
    (tmp_path / "templates/pipeline.yaml").write_text(
        manifest.replace("spec:\n", given, 1).replace("    decoder:\n", limits, 1)
    )
    return tmp_path


class Helm:
    """Of one release."""

    def __init__(self, user: User, chart: Path) -> None:
        self._user = user
        self._chart = chart

    def upgrade(self, *arguments: str, major: int = 4) -> None:
        """Or installs it."""
        place = ("--namespace", self._user.namespace)
        self._user.cluster.helm("upgrade", "--install", "art", self._chart, *place, *arguments, major=major)

    def fails(self, words: str, *arguments: str) -> None:
        with pytest.raises(ClusterError, match=words):
            self.upgrade("--wait", *arguments)


def test_helm_4_waits_until_a_pipeline_is_ready_and_tells_what_keeps_it(
    user: User, chart: Path, serve: Callable[[], Operator]
) -> None:
    helm = Helm(user, chart)
    helm.fails("not ready. status: InProgress", "--timeout=2s")
    serve()
    helm.upgrade("--wait", "--timeout=60s")
    assert user.condition("Ready").status == "True"
    assert user.live()["spec"]["image"].get("tag") is None  # its null was applied server-side
    helm.upgrade("--wait", "--timeout=60s", "--set=tag=two")
    assert user.condition("Ready").status == "True"
    assert {pod["spec"]["containers"][0]["image"].rpartition(":")[2] for pod in user.pods("denoiser")} == {"two"}
    # At once, as its time is longer than the test's.
    helm.fails("status: Failed, message: spec.roles.decoder.resources: a request", "--timeout=1h", "--set=limit=0.25")
    helm.fails("not ready. status: InProgress", "--timeout=2s", "--set=suspend=true")
    user.until_condition("Progressing", "False", "Suspended")
    helm.fails("status: InProgress, message: spec.suspend is true", "--timeout=2s", "--set=suspend=true")
    helm.upgrade("--wait", "--timeout=60s")
    assert user.condition("Ready").status == "True"


def test_after_helm_3_kubectl_must_wait(user: User, chart: Path, serve: Callable[[], Operator]) -> None:
    Helm(user, chart).upgrade("--wait", "--timeout=60s", major=3)
    waits(user, "condition=Ready")
    serve()
    user.kubectl("wait", "dpipe/digits", "--for=condition=Ready", "--timeout=60s")
    Helm(user, chart).upgrade("--wait", "--timeout=60s", "--set=tag=two", major=3)
    assert user.live()["spec"]["image"] == {"tag": "two"}
