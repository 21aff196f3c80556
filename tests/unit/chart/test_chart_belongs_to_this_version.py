"""The chart, the package, the definitions and the notes speak of one and the same version."""

from __future__ import annotations

import tomllib

import pytest
import yaml

from diffusion_operator.api import load_pipeline
from diffusion_operator.render import Images
from diffusion_operator.render.images import PACKAGED
from testbed.controlplane import programs
from testbed.images.building import name
from unit.chart.charts import CHART, METADATA, NAMESPACE, ROOT, at, notes, render

PACKAGE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_chart_installs_the_operator_of_its_own_version() -> None:
    assert METADATA["appVersion"] == PACKAGE["version"]
    assert METADATA["version"] == PACKAGE["version"]
    assert Images().worker.endswith(f":{PACKAGE['version']}")


def test_the_images_that_are_asked_for_are_those_that_builds_make() -> None:
    asked = {"operator": render().container["image"], "router": PACKAGED.router, "worker": PACKAGED.worker}
    for target, image in asked.items():
        assert f"docker.io/{image}" == name(target)


def test_the_license_and_the_image_are_those_of_the_package() -> None:
    annotations = METADATA["annotations"]
    assert annotations["artifacthub.io/license"] == PACKAGE["license"]
    (image,) = yaml.safe_load(annotations["artifacthub.io/images"])
    assert image["image"] == render().container["image"]


def test_the_kubernetes_versions_that_it_promises_are_tested() -> None:
    oldest, newest = (programs.kubernetes(which).rpartition(".")[0] for which in ("oldest", "newest"))
    assert METADATA["kubeVersion"] == f">={oldest}.0-0"
    assert f"Kubernetes {oldest} or newer; tested with {oldest}, {newest} and" in (CHART / "README.md").read_text()


def test_the_annotated_definitions_are_those_of_the_chart() -> None:
    definitions = [yaml.safe_load(path.read_text()) for path in (CHART / "crds").iterdir()]
    annotated = {
        (crd["kind"], crd["version"], crd["name"])
        for crd in yaml.safe_load(METADATA["annotations"]["artifacthub.io/crds"])
    }
    assert annotated == {
        (crd["spec"]["names"]["kind"], crd["spec"]["versions"][0]["name"], crd["metadata"]["name"])
        for crd in definitions
    }


def test_the_annotated_examples_are_valid() -> None:
    for example in yaml.safe_load(METADATA["annotations"]["artifacthub.io/crdsExamples"]):
        assert load_pipeline(example).name == "digits"


def test_the_notes_show_the_next_three_commands() -> None:
    text = notes()
    commands = [line.strip() for line in text.splitlines() if line.startswith("  kubectl")]
    assert commands == [
        f"kubectl -n {NAMESPACE} rollout status deployment/diffusion-diffusion-operator",
        "kubectl -n default apply -f - <<'END'",
        "kubectl -n default get dpipe digits --watch",
    ]
    assert f"helm test diffusion -n {NAMESPACE}" in text
    assert "kubectl apply -f crds/" in text


def test_the_pipeline_in_the_notes_is_valid() -> None:
    text = notes()
    document = text.partition("<<'END'\n")[2].partition("  END\n")[0]
    assert load_pipeline(yaml.safe_load(document)).name == "digits"


def test_the_notes_speak_of_a_namespace_that_is_served() -> None:
    text = notes({"watchNamespaces": ["paint", "film"]})
    assert "serves namespaces paint, film." in text
    assert "kubectl -n paint apply" in text


def test_the_notes_warn_that_rdma_needs_a_lenient_namespace() -> None:
    assert "Workers over RDMA do not pass even `baseline`" in " ".join(notes().split())


@pytest.mark.parametrize(
    ("path", "value"),
    [("operator.kind", "ServiceMonitor"), ("operator.kind", "PodMonitor"), ("pipelines.enabled", True)],
)
def test_the_notes_say_what_was_not_made_for_want_of_the_prometheus_operator(path: str, value: object) -> None:
    section = path.partition(".")[0]
    text = notes({"monitoring": at(path.split("."), value)})
    assert f"nothing was made for monitoring.{section}: this cluster does not serve monitoring.coreos.com/v1" in text
    assert "WARNING" not in notes()
