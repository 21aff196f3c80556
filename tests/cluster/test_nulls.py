"""`field: null` is taken for left out by every way to apply, and applying it again changes nothing.

No operator runs here: this is between a manifest and the API server.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import yaml

from cluster.test_rules_of_the_resource import FEATURES
from cluster.user import API_VERSION
from diffusion_operator.api import (
    CACHE_KIND,
    CACHE_PLURAL,
    KIND,
    PLURAL,
    SCALER_KIND,
    SCALER_PLURAL,
    crd,
    from_live,
    schema,
)
from diffusion_operator.render import render
from testbed.controlplane.client import JSON, Refused
from testbed.controlplane.cluster import Cluster
from testbed.examples import EXAMPLES
from unit.resource.nulls import Optional, optional_fields

FORMS = pytest.mark.parametrize(
    "form",
    [
        pytest.param((), id="client-side", marks=pytest.mark.thorough),
        pytest.param(("--server-side",), id="server-side"),
    ],
)
PLURALS = {KIND: PLURAL, SCALER_KIND: SCALER_PLURAL, CACHE_KIND: CACHE_PLURAL}
DEFINED = pytest.mark.parametrize(("kind", "plural"), PLURALS.items(), ids=["pipeline", "scaler", "cache"])
FILES = sorted([*EXAMPLES.glob("*.yaml"), *FEATURES.glob("*.yaml")])


class Applied:
    """Objects of one kind, which are in one file."""

    def __init__(self, cluster: Cluster, namespace: str, kind: str, specs: Mapping[str, Any]) -> None:
        self._cluster = cluster
        plural = PLURALS[kind]
        self._path = f"/apis/{API_VERSION}/namespaces/{namespace}/{plural}"
        self._namespace = namespace
        items = [
            {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec, "status": None}
            for name, spec in specs.items()
        ]
        self._text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        self._definition = crd.schema(plural)["properties"]["spec"]

    def apply(self, verb: str, *form: str) -> None:
        # A diff that shows something fails.
        self._cluster.kubectl("-n", self._namespace, verb, *form, "-f", "-", stdin=self._text)

    def live(self) -> dict[str, JSON]:
        return {item["metadata"]["name"]: item for item in self._cluster.api.items(self._path)}

    def stored(self) -> dict[str, Any]:
        """Their specs, without nulls."""
        return {name: schema.without_nulls(item["spec"], self._definition) for name, item in self.live().items()}

    def versions(self) -> dict[str, tuple[int, str]]:
        """Generations, and resource versions where an apply that changes nothing leaves them."""
        # Older API servers write down when a null was applied to a field with a default.
        kept = int(self._cluster.api.get("/version")["minor"]) >= 35
        return {
            name: (item["metadata"]["generation"], item["metadata"]["resourceVersion"] if kept else "")
            for name, item in self.live().items()
        }


@pytest.fixture
def accepted(cluster: Cluster, namespace: str) -> Callable[[str, str], dict[str, Optional]]:
    """Fields that may be left out of a resource with nothing but what they need around them, by a name of each."""

    def ask(kind: str, plural: str) -> dict[str, Optional]:
        path = f"/apis/{API_VERSION}/namespaces/{namespace}/{plural}"
        found = {}
        for number, field in enumerate(optional_fields(plural)):
            item = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "x"}, "spec": field.absent}
            try:
                cluster.api.post(path, item, dryRun="All", fieldValidation="Strict")
            except Refused as refused:
                # Of some fields one must be given; they are in the files of the next test.
                assert refused.code == 422, refused
                of_several = ("valueFrom", "networkPolicy", "resourceClaims[")
                assert any(part in field.path for part in of_several), refused
            else:
                found[f"n{number}"] = field
        return found

    return ask


@FORMS
@DEFINED
def test_the_null_of_each_field_is_accepted_means_left_out_and_is_never_a_difference(
    form: tuple[str, ...],
    kind: str,
    plural: str,
    cluster: Cluster,
    namespace: str,
    accepted: Callable[[str, str], dict[str, Optional]],
    report: Callable[[str], None],
) -> None:
    fields = accepted(kind, plural)
    nulls = Applied(cluster, namespace, kind, {name: field.null for name, field in fields.items()})
    nulls.apply("apply", *form)
    definition = crd.schema(plural)["properties"]["spec"]
    expected = {name: schema.with_defaults(field.absent, definition) for name, field in fields.items()}
    assert nulls.stored() == expected
    assert {item["metadata"]["generation"] for item in nulls.live().values()} == {1}

    nulls.apply("diff", *form)
    nulls.apply("apply", *form)  # the first change of an object after its creation writes its status' defaults down
    before = nulls.versions()
    nulls.apply("apply", *form)
    nulls.apply("diff", *form)
    assert nulls.versions() == before
    report(f"{len(fields)} fields of {kind}")


def nulled(spec: Any, definition: Mapping[str, Any]) -> Iterator[Any]:
    """The spec again and again, each time with another of its optional fields null."""
    if definition.get("x-kubernetes-preserve-unknown-fields"):
        return  # within, a null has a meaning of its own
    if isinstance(spec, Mapping):
        fields = definition.get("properties", {})
        for name, value in spec.items():
            field = fields.get(name, definition.get("additionalProperties", {}))
            if name not in definition.get("required", ()):
                yield {**spec, name: None}
            for inner in nulled(value, field):
                yield {**spec, name: inner}
    elif isinstance(spec, list):
        for index, value in enumerate(spec):
            for inner in nulled(value, definition.get("items", {})):
                yield [*spec[:index], inner, *spec[index + 1 :]]


def meaning(spec: JSON) -> list[JSON]:
    return list(render(from_live({"metadata": {"name": "x"}, "spec": spec})))


@FORMS
@pytest.mark.parametrize("how", ["null", "absence"])
def test_a_field_that_had_a_value_is_taken_out(
    how: str, form: tuple[str, ...], cluster: Cluster, namespace: str, report: Callable[[str], None]
) -> None:
    definition = crd.schema()["properties"]["spec"]
    path = f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}"
    changes = {}
    for file in FILES:
        spec = yaml.safe_load(file.read_text())["spec"]
        changes |= {f"n{len(changes) + number}": (spec, null) for number, null in enumerate(nulled(spec, definition))}
    before = Applied(cluster, namespace, KIND, {name: spec for name, (spec, _) in changes.items()})
    before.apply("apply", *form)
    given, left_out = {}, {}
    for name, item in before.live().items():
        null = changes[name][1]
        try:
            edited = {**item, "spec": schema.without_nulls(null, definition)}
            left_out[name] = cluster.api.put(f"{path}/{name}", edited, dryRun="All")["spec"]
        except Refused:
            continue  # what must stay as it was, or another field needs
        given[name] = null if how == "null" else schema.without_nulls(null, definition)
    after = Applied(cluster, namespace, KIND, given)
    after.apply("apply", *form)
    if how == "absence" and form:
        after.apply(
            "apply", *form
        )  # an object that is there and emptied is null at first: kubernetes/kubernetes#135841
    stored, versions = after.stored(), after.versions()
    # A server-side apply drops an object that it empties, which means the same.
    assert {name: meaning(stored[name]) for name in given} == {name: meaning(spec) for name, spec in left_out.items()}
    after.apply("diff", *form)
    after.apply("apply", *form)
    assert after.versions() == versions
    report(f"{len(given)} of {len(changes)} fields of {len(FILES)} files")
    assert len(given) > 100
