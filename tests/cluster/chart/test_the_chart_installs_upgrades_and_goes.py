"""Real helm, a real API server: what the chart renders is taken, changed and gone again without a trace."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from cluster.chart.release import CHART, DEPLOYMENTS, FULL_NAME, NAME, Release, everything, until_collected, until_left
from cluster.user import User
from testbed.controlplane.cluster import Cluster
from testbed.controlplane.operators import Operator

EVERYTHING: dict[str, Any] = {
    "replicas": 2,
    "leaderElection": {"enabled": True},
    "monitoring": {
        "operator": {"kind": "ServiceMonitor", "interval": "15s"},
        "pipelines": {"enabled": True, "scrapeTimeout": "5s"},
        "rules": {"enabled": True, "alertLabels": {"team": "serving"}},
        "dashboards": {"enabled": True},
    },
    "networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {}}]},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
    ],
}
DEFINITIONS = {
    f"CustomResourceDefinition /{plural}.diffusion-operator.dev"
    for plural in ("diffusionpipelines", "diffusionpipelinerolescalers", "modelcaches")
}


def test_it_brings_its_definitions_and_starts_in_a_restricted_namespace(bare: Cluster, release: Release) -> None:
    notes = release.install()
    assert everything(bare) >= DEFINITIONS
    status = release.deployment()["status"]
    assert status["availableReplicas"] == 1
    assert f"kubectl -n {release.namespace} rollout status deployment/{FULL_NAME}" in notes
    assert "successfully rolled out" in bare.kubectl(
        "-n", release.namespace, "rollout", "status", f"deployment/{FULL_NAME}", "--timeout=30s"
    )


def test_the_notes_name_the_namespaces_that_would_refuse_rdma(bare: Cluster, release: Release, paint: str) -> None:
    bare.kubectl("label", "namespace", paint, "pod-security.kubernetes.io/enforce=baseline")
    notes = release.install({"watchNamespaces": [paint]})
    assert f"refused in these namespaces, which enforce baseline or restricted: {paint}." in notes
    bare.kubectl("label", "namespace", paint, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
    assert "WARNING" not in release.upgrade({"watchNamespaces": [paint]})


def test_all_that_it_can_make_is_taken_without_an_unknown_field(
    monitored: Cluster, release: Release, paint: str
) -> None:
    values = EVERYTHING | {"watchNamespaces": [paint]}
    checked = monitored.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=release.manifest(values)
    )
    assert {line.split("/")[0] for line in checked.splitlines()} >= {
        "servicemonitor.monitoring.coreos.com",
        "podmonitor.monitoring.coreos.com",
        "prometheusrule.monitoring.coreos.com",
        "networkpolicy.networking.k8s.io",
        "poddisruptionbudget.policy",
        "lease.coordination.k8s.io",
        "configmap",
    }
    release.install(values)
    assert release.deployment()["status"]["availableReplicas"] == 2


def test_an_upgrade_changes_what_values_say_and_nothing_else(bare: Cluster, release: Release, paint: str) -> None:
    release.install({"watchNamespaces": [paint]})
    role = f"Role {paint}/{release.namespace}:{FULL_NAME}"
    assert role in everything(bare)
    before = release.deployment()

    release.upgrade({"watchNamespaces": [paint]})
    assert release.deployment()["metadata"]["generation"] == before["metadata"]["generation"]

    release.upgrade({"replicas": 2, "leaderElection": {"enabled": True}})
    found = release.deployment()
    assert found["spec"]["strategy"]["type"] == "RollingUpdate"
    assert found["status"]["availableReplicas"] == 2
    assert role not in everything(bare)

    release.upgrade({"concurrency": 2})
    found = release.deployment()
    assert found["spec"]["strategy"] == {"type": "Recreate"}
    assert found["spec"]["replicas"] == 1
    assert "--concurrency=2" in release.flags()
    leases = bare.api.items(f"/apis/coordination.k8s.io/v1/namespaces/{release.namespace}/leases")
    assert leases == []


def test_definitions_of_an_older_release_stop_the_operator_until_they_are_applied_again(
    bare: Cluster, release: Release, tmp_path: Path
) -> None:
    release.install()
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/diffusionpipelines.diffusion-operator.dev"
    older = bare.api.get(path)
    (version,) = older["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["properties"]["suspend"]
    del spec["x-kubernetes-validations"]  # which speak of that field
    bare.api.put(path, older)
    log = tmp_path / "operator.log"
    operator = Operator(release.kubeconfig(), *release.flags(), log=log)
    operator.start(ready_within=None)
    bare.until(lambda: operator.exit_code is not None, 30, "the operator ends")
    assert "spec.suspend" in log.read_text()
    assert "kubectl apply -f crds/" in log.read_text()

    bare.kubectl("apply", "-f", CHART / "crds")
    with Operator(release.kubeconfig(), *release.flags(), log=log):
        pass


def test_two_releases_serve_two_namespaces(bare: Cluster, release: Release, paint: str, tmp_path: Path) -> None:
    bare.add_namespace("beside")
    (tmp_path / "beside").mkdir()
    beside = Release(bare, "beside", tmp_path / "beside")
    release.install({"watchNamespaces": [paint]})
    beside.install({"watchNamespaces": ["beside"]})
    beside.uninstall()
    assert release.deployment()["status"]["availableReplicas"] == 1


def test_the_pod_of_helm_test_is_admitted_and_goes_when_it_succeeded(bare: Cluster, release: Release) -> None:
    """On a fake node, which runs nothing: what its pod would find is the next test's."""
    release.install()
    assert "Phase:          Succeeded" in release.test()
    left = everything(bare)
    assert not {f"{kind} {release.namespace}/{FULL_NAME}-test" for kind in ("Pod", "ServiceAccount")} & left


def test_what_helm_test_checks_is_found_with_no_right_at_all(bare: Cluster, release: Release, tmp_path: Path) -> None:
    release.install()
    bare.kubectl("-n", release.namespace, "create", "serviceaccount", "nobody")
    token = bare.kubectl("-n", release.namespace, "create", "token", "nobody")
    (tmp_path / "token").write_text(token)
    (tmp_path / "ca.crt").write_bytes(bare.authority.certificate.file.read_bytes())
    check = ModuleType("check")
    exec(release.checking(), check.__dict__)
    with Operator(release.kubeconfig(), *release.flags(), log=tmp_path / "operator.log") as operator:
        assert check.main(bare.url, operator.url, tmp_path) == 0
    assert check.main(bare.url, operator.url, tmp_path) == 1


def test_uninstalled_after_its_pipelines_it_leaves_nothing_but_the_definitions(
    monitored: Cluster, release: Release, paint: str, tmp_path: Path
) -> None:
    before = everything(monitored)
    release.install(EVERYTHING)
    user = User(monitored, paint, "digits")
    flags = [*release.flags(), f"--lease-namespace={release.namespace}"]
    with Operator(release.kubeconfig(), *flags, log=tmp_path / "operator.log"):
        user.make()
        user.until_counts()
        user.kubectl("delete", "dpipe", "digits", "--timeout=30s")
        release.uninstall()
    until_left(monitored, before | DEFINITIONS)


def test_uninstalled_before_its_pipelines_they_serve_on_and_can_be_deleted(
    monitored: Cluster, release: Release, paint: str, tmp_path: Path
) -> None:
    """No finalizer, so nobody has to be there for a pipeline to go."""
    before = everything(monitored)
    release.install({"monitoring": {"operator": {"kind": "PodMonitor"}}})
    user = User(monitored, paint, "digits")
    with Operator(release.kubeconfig(), *release.flags(), log=tmp_path / "operator.log"):
        user.make()
        user.until_counts()
    release.uninstall()
    assert not monitored.api.exists(f"{DEPLOYMENTS.format(release.namespace)}/{FULL_NAME}")
    user.until_counts()
    user.kubectl("delete", "dpipe", "digits", "--timeout=30s")
    until_left(monitored, before | DEFINITIONS)


def test_definitions_deleted_first_take_their_pipelines_with_them(
    bare: Cluster, release: Release, paint: str, tmp_path: Path
) -> None:
    before = everything(bare)
    release.install()
    until_collected(bare)
    user = User(bare, paint, "digits")
    with Operator(release.kubeconfig(), *release.flags(), log=tmp_path / "operator.log"):
        user.make()
        user.until_counts()
        bare.kubectl("delete", "-f", CHART / "crds", "--timeout=60s")
    release.uninstall()
    until_left(bare, before - DEFINITIONS)


def test_it_comes_back_to_the_pipelines_that_it_left(
    bare: Cluster, release: Release, paint: str, tmp_path: Path
) -> None:
    release.install()
    user = User(bare, paint, "digits")
    user.make()
    release.uninstall()
    user.edit(roles={"denoiser": {"replicas": 2}})
    release.install()
    with Operator(release.kubeconfig(), *release.flags(), log=tmp_path / "operator.log"):
        user.until_counts(denoiser=2)
    user.kubectl("delete", "dpipe", "digits", "--timeout=30s")
    assert NAME in bare.helm("list", "--namespace", release.namespace, "--short")
