"""A misspelt key, a wrong value and values that contradict each other are refused before anything is installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from unit.chart import kubernetes_types
from unit.chart.charts import EVERYTHING, SCHEMA, VALUES, Refused, at, leaves, objects, render


def schema_at(path: Sequence[str]) -> dict[str, Any]:
    schema = SCHEMA
    for key in path:
        schema = schema["properties"][key]
        if "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    return schema


def has_free_keys(path: Sequence[str]) -> bool:
    """As labels and annotations have."""
    schema = schema_at(path)
    return "patternProperties" in schema or schema.get("additionalProperties") is not False


@pytest.mark.parametrize("path", [path for path in objects() if not has_free_keys(path)], ids=".".join)
def test_an_unknown_key_is_refused_by_name(path: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match="additional properties 'misspelt' not allowed"):
        render(at((*path, "misspelt"), 1))


def test_only_maps_of_labels_and_annotations_have_free_keys() -> None:
    free = {path[-1] for path in objects() if has_free_keys(path)}
    quantities = {"requests", "limits"}
    assert free - quantities == {
        "annotations",
        "labels",
        "commonLabels",
        "commonAnnotations",
        "podLabels",
        "podAnnotations",
        "alertLabels",
        "nodeSelector",
    }


def test_every_object_of_the_schema_is_closed_or_says_what_its_free_keys_hold() -> None:
    def open_objects(schema: Any, path: str) -> Iterator[str]:
        if isinstance(schema, Mapping):
            if schema.get("type") == "object" and "additionalProperties" not in schema:
                yield path
            for key, part in schema.items():
                yield from open_objects(part, f"{path}.{key}")

    # Nothing of this chart reads `global`: it is what a parent chart shares with all of its parts.
    assert list(open_objects(SCHEMA, "")) == [".properties.global"]


def test_values_yaml_shows_every_key_of_the_schema() -> None:
    kubernetes_own = {key for key, schema in SCHEMA["properties"].items() if "$ref" in schema}
    for path in objects():
        if not has_free_keys(path) and not kubernetes_own & set(path):
            shown = VALUES
            for key in path:
                shown = shown[key]
            assert schema_at(path)["properties"].keys() - {"global"} == shown.keys(), path


def test_kubernetes_own_types_are_those_that_are_published() -> None:
    assert SCHEMA["definitions"] == kubernetes_types.definitions(), f"run {kubernetes_types.__file__}"


MISSPELT_WITHIN = {
    "tolerations": [{"kee": "gpu"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"terms": []}}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "x": 1}],
    "extraEnv": [{"name": "A", "valu": "b"}],
    "imagePullSecrets": [{"nam": "registry"}],
    "resources": {"limit": {"cpu": 1}},
    "securityContext": {"capabilities": {"dropp": ["ALL"]}},
    "podSecurityContext": {"seccompProfile": {"kind": "RuntimeDefault"}},
    "networkPolicy": {"from": [{"namespaceSelecter": {}}]},
}


@pytest.mark.parametrize("values", [{key: value} for key, value in MISSPELT_WITHIN.items()], ids=MISSPELT_WITHIN)
def test_a_key_misspelt_inside_one_of_kubernetes_types_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"additional properties '[a-zA-Z]+' not allowed"):
        render(values)


@pytest.mark.parametrize("path", [path for path, _ in leaves()], ids=".".join)
def test_a_value_of_the_wrong_kind_is_refused_by_its_path(path: tuple[str, ...]) -> None:
    # No value may be a list of lists.
    with pytest.raises(Refused, match=f"at '/{'/'.join(path)}"):
        render(at(path, [["wrong"]]))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("replicas", -1),
        ("image.tag", "latest"),
        ("image.digest", "0123"),
        ("image.repository", "diffusion-operator/operator:0.1.0"),
        ("image.pullPolicy", "Sometimes"),
        ("watchNamespaces", ["paint", "paint"]),
        ("watchNamespaces", ["Paint"]),
        ("concurrency", 0),
        ("resyncSeconds", 0),
        ("httpPort", 70000),
        ("log.level", "verbose"),
        ("log.format", "xml"),
        ("extraArgs", ["router-address=x"]),
        ("leaderElection.leaseSeconds", 1),
        ("platform.imageRegistry", "https://mirror.example"),
        ("platform.securityProfile", "Privileged"),
        ("platform.caBundle.key", "a/b"),
        ("platform.workers.env", [{"name": "A", "valu": "b"}]),
        ("platform.commonLabels", {"with space": "x"}),
        ("podLabels", {"with space": "x"}),
        ("podDisruptionBudget.maxUnavailable", "half"),
        ("monitoring.operator.kind", "Both"),
        ("monitoring.operator.interval", "30"),
        ("monitoring.rules.notReadyFor", "soon"),
        ("monitoring.rules.alertLabels", {"team-name": "serving"}),
        ("livenessProbe.periodSeconds", 0),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_path(path: str, value: Any) -> None:
    keys = path.split(".")
    with pytest.raises(Refused, match=f"at '/{'/'.join(keys)}"):
        render(at(keys, value))


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "replicas without a lease": (
        {"replicas": 3},
        "replicas is 3, but leaderElection.enabled is false: .* Set leaderElection.enabled to true, or replicas to 1",
    ),
    "no account": ({"serviceAccount": {"create": False}}, "name the ServiceAccount that the operator is to use"),
    "an alarm that never ends": (
        {"monitoring": {"rules": {"enabled": True}}},
        "monitoring.operator.kind is None: DiffusionOperatorDown would fire for ever. Set monitoring.operator.kind",
    ),
    "a label twice": (
        {"commonLabels": {"app.kubernetes.io/name": "mine"}},
        "commonLabels names app.kubernetes.io/name, which the chart sets by itself",
    ),
    "a label of the pod twice": (
        {"podLabels": {"app.kubernetes.io/instance": "mine"}},
        "podLabels names app.kubernetes.io/instance, which the chart sets by itself",
    ),
    "a label of pipelines twice": (
        {"platform": {"commonLabels": {"app.kubernetes.io/name": "mine"}}},
        "platform.commonLabels names app.kubernetes.io/name",
    ),
    "an annotation of the operator's own": (
        {"platform": {"commonAnnotations": {"diffusion-operator.dev/applied": "x"}}},
        "platform.commonAnnotations names diffusion-operator.dev/applied, which is the operator's own",
    ),
    "a file of the platform twice": (
        {"extraArgs": ["--platform-file=/x"]},
        "extraArgs names --platform-file, which the chart sets by itself: use the value platform instead",
    ),
    "a severity twice": (
        {"monitoring": {"rules": {"alertLabels": {"severity": "page"}}}},
        "alertLabels names severity, which each alert sets by itself",
    ),
    "a flag twice": (
        {"extraArgs": ["--concurrency=2"]},
        "extraArgs names --concurrency, which the chart sets by itself: use the value concurrency instead",
    ),
    "a flag twice, another way": ({"extraArgs": ["--no-leader-elect"]}, "use the value leaderElection.enabled instead"),
    "a setting past the values": (
        {"extraEnv": [{"name": "DIFFUSION_OPERATOR_CONCURRENCY", "value": "2"}]},
        "extraEnv names DIFFUSION_OPERATOR_CONCURRENCY: set the operator up by this chart's values, or by extraArgs",
    ),
}


@pytest.mark.parametrize(("values", "sentence"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused_with_the_remedy(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        render(values)


def test_what_each_contradiction_needs_is_allowed_where_it_is_given() -> None:
    render(
        EVERYTHING
        | {"serviceAccount": {"create": False, "name": "given"}, "extraArgs": ["--router-address={pipeline}:{port}"]}
    )
