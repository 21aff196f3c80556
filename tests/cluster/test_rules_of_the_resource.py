"""What the API server refuses, with which words, and what it fills in.

`dpipe` checks resources by itself, by the same definition and without a cluster; here both are held to each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import yaml

from cluster.drawn_resources import Path, combined, draws, fields, put
from cluster.user import API_VERSION, User
from diffusion_operator.api import SCALER_PLURAL, InvalidResourceError, crd, with_defaults
from diffusion_operator.api.schema import without_nulls
from testbed.controlplane.client import JSON, Refused
from testbed.controlplane.cluster import Cluster, ClusterError
from testbed.examples import EXAMPLES
from unit.resource.test_edits import ALLOWED_EDITS, REFUSED_EDITS
from unit.resource.test_validation import BROKEN_RULES, MINIMAL, UNKNOWN_FIELDS, WRONG_VALUES

CRDS = EXAMPLES.parent / "crds"
FEATURES = EXAMPLES.parent / "tests" / "unit" / "render" / "features"
ACCEPTED = sorted([*EXAMPLES.glob("*.yaml"), *FEATURES.glob("*.yaml")])
SPEC: Mapping[str, Any] = crd.schema()["properties"]["spec"]
NAMES = ("Digits", "1digits", "digits-", "d" * 41)

# How the API server says what dpipe says of a schema's bounds.
BOUNDS = {
    "lacks the required field": "Required value",
    "must be one of": "Unsupported value",
    "must not be empty": "should be at least 1 chars long",
    "must be at least": "should be greater than or equal to",
    "must be at most": "should be less than or equal to",
    "must match": "should match",
    "must be an integer or": "must be of type integer,string",
    "must be a quantity": "spec.roles.router.resources.limits.cpu",
    "must be a number, a text": "must have at most 0",
    "must be": "must be of type",
    "is already given": "Duplicate value",
    "is given twice": "Duplicate value",
}


@pytest.fixture
def user(cluster: Cluster, namespace: str) -> User:
    return User(cluster, namespace, "painter")


Answer = tuple[JSON | None, str]
"""The resource as it would be stored, or None and why not."""


@pytest.fixture
def ask(user: User) -> Callable[[JSON], Answer]:
    """What the API server answers to a resource that is to be created."""

    def post(resource: JSON) -> Answer:
        try:
            return user.api.post(user.pipelines, resource, dryRun="All", fieldValidation="Strict"), ""
        except Refused as refused:
            assert refused.code in {400, 422}, refused
            return None, refused.message

    return post


def spec_of(text: str) -> JSON:
    found: JSON = yaml.safe_load(text)
    return found


def rules(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from schema.get("x-kubernetes-validations", ())
    for _, field in fields(schema):
        yield from field.get("x-kubernetes-validations", ())


@pytest.mark.parametrize("text", BROKEN_RULES)
def test_a_resource_that_breaks_a_rule_is_refused_with_its_field_and_remedy(
    text: str, user: User, ask: Callable[[JSON], Answer]
) -> None:
    stored, words = ask(user.resource(spec_of(text)))
    field, _, remedy = BROKEN_RULES[text].partition(": ")
    assert stored is None
    # Older API servers name the type of what is wrong.
    assert re.search(f'{re.escape(field)}: Invalid value: (("[a-z]+"|[0-9]+): )?{re.escape(remedy)}', words), words


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_pods_could_not_have_is_refused(
    name: str, cluster: Cluster, namespace: str, ask: Callable[[JSON], Answer]
) -> None:
    stored, words = ask(User(cluster, namespace, name).resource(spec_of(MINIMAL)))
    assert stored is None
    # Of capitals Kubernetes itself says something, to any object.
    assert "metadata.name must be at most 40 characters" in words or "lower case alphanumeric characters" in words


@pytest.mark.parametrize("text", WRONG_VALUES)
def test_a_wrong_value_is_refused_with_its_path_and_bound(text: str, user: User, ask: Callable[[JSON], Answer]) -> None:
    stored, words = ask(user.resource(spec_of(text)))
    field, _, ours = WRONG_VALUES[text].partition(": ")
    assert stored is None
    assert f"{field}" in words
    theirs = next((said for said in BOUNDS if said in ours), None)
    assert theirs is None or BOUNDS[theirs] in words, words


def test_kubectl_refuses_a_misspelt_field_and_names_it(user: User) -> None:
    for text, words in UNKNOWN_FIELDS.items():
        field = words.partition(": ")[0]
        with pytest.raises(ClusterError, match=re.escape(f'unknown field "{field}"')):
            user.kubectl("apply", "-f", "-", stdin=json.dumps(user.resource(spec_of(text))))


def test_every_rule_and_its_words_are_met_by_a_resource_or_an_edit_here(
    user: User, ask: Callable[[JSON], Answer]
) -> None:
    said = [ask(user.resource(spec_of(text)))[1] for text in BROKEN_RULES]
    said += [ask(User(user.cluster, user.namespace, name).resource(spec_of(MINIMAL)))[1] for name in NAMES]
    said += [ask(user.resource(spec_of(f"{MINIMAL}\nrestart: {{id: a}}")))[1]]
    said += [words for old, new, _ in REFUSED_EDITS for words in [edit(user, old, new)]]
    for rule in rules(crd.schema()):
        # The words of a messageExpression name the scaler.
        parts = re.findall(r'"([^"]*)"', rule.get("messageExpression", "")) or [rule["message"]]
        assert any(all(part in words for part in parts) for words in said), rule


def edit(user: User, old: str, new: str) -> str:
    """Why a pipeline that is there may not be changed so; empty: it may."""
    made = user.make(spec_of(old))
    try:
        changed = {**user.resource(spec_of(new)), "metadata": made["metadata"]}
        user.api.put(user.path, changed, dryRun="All", fieldValidation="Strict")
        return ""
    except Refused as refused:
        assert refused.code == 422
        return refused.message
    finally:
        user.api.delete(user.path)


@pytest.mark.parametrize(("old", "new", "words"), REFUSED_EDITS)
def test_an_edit_that_cannot_be_carried_out_is_refused_with_its_remedy(
    old: str, new: str, words: str, user: User
) -> None:
    assert words in edit(user, old, new)


@pytest.mark.parametrize(("old", "new"), ALLOWED_EDITS)
def test_other_edits_are_allowed(old: str, new: str, user: User) -> None:
    assert edit(user, old, new) == ""


def test_a_new_pipeline_may_not_ask_for_a_restart(user: User, ask: Callable[[JSON], Answer]) -> None:
    restarted = {**spec_of(MINIMAL), "restart": {"id": "today"}}
    stored, words = ask(user.resource(restarted))
    assert stored is None
    assert "restart must be left out of a new pipeline: set restart.id later" in words
    user.make(spec_of(MINIMAL))
    assert user.edit(restart={"id": "today"})["spec"]["restart"] == {"id": "today"}


@pytest.mark.parametrize("file", ACCEPTED, ids=lambda file: file.stem)
def test_what_is_stored_is_what_dpipe_makes_of_the_same_file(
    file: Any, user: User, ask: Callable[[JSON], Answer]
) -> None:
    resource = yaml.safe_load(file.read_text())
    stored, words = ask(user.resource(resource["spec"]))
    assert stored is not None, words
    assert stored["spec"] == with_defaults(resource)["spec"]


def test_every_default_is_in_what_is_stored(user: User) -> None:
    user.make(spec_of("model: {id: a/b}"))
    stored = user.live()["spec"]
    defaults = {path: field["default"] for path, field in fields(SPEC) if "default" in field}
    assert len(defaults) > 30
    for path, default in defaults.items():
        place = stored
        for key in path:
            place = place[key]
        assert includes(place, default), path


def includes(value: Any, part: Any) -> bool:
    """Whether an object has everything of another, and further fields at most."""
    if isinstance(part, Mapping):
        return isinstance(value, Mapping) and all(key in value and includes(value[key], part[key]) for key in part)
    return bool(value == part)


def test_dpipe_and_the_api_server_agree_on_every_bound_of_every_field(
    user: User, ask: Callable[[JSON], Answer], report: Callable[[str], None], in_gate: bool
) -> None:
    # dpipe cannot know whether a pipeline is new, and takes a file that asks for a restart.
    single = [draw for draw in draws({"properties": {"spec": SPEC}}) if draw[0][:2] != ("spec", "restart")]
    roles = SPEC["properties"]["roles"]["properties"]
    decoder = roles["decoder"]["properties"]
    assert decoder.items() <= roles["encoder"]["properties"].items(), "the encoder stands for both, to save time"
    alone = [one for one in single if "decoder" not in one[0] and not (in_gate and another_stands_for(one[0]))]
    cases = [[one] for one in alone] + combined(single, 200 if in_gate else 500, seed=4)
    accepted = 0
    for case in cases:
        resource = put(user.resource({"model": {"id": "a/b"}}), *case)
        stored, words = ask(resource)
        ours, faults = dpipe(resource)
        assert (stored is None) == (ours is None), (case, words, faults)
        assert stored is None or ours is None or without_nulls(stored["spec"], SPEC) == ours["spec"], case
        accepted += stored is not None
    report(f"{len(cases)} resources, {accepted} of them accepted")
    assert accepted > len(cases) // 5


def another_stands_for(path: Path) -> bool:
    """Whether another field has the very same schema: the encoder's for that of other roles, one policy for others."""
    properties = SPEC["properties"]
    match path:
        case ("spec", "roles", role, field, *_) if role != "encoder":
            of_roles = properties["roles"]["properties"]
            return bool(of_roles[role]["properties"].get(field) == of_roles["encoder"]["properties"].get(field))
        case ("spec", "networkPolicy", "grpcFrom" | "metricsFrom" as field, *_):
            rules = properties["networkPolicy"]["properties"]
            return {**rules[field], "description": ""} == {**rules["httpFrom"], "description": ""}
    return False


def dpipe(resource: JSON) -> Answer:
    try:
        return with_defaults(resource), ""
    except InvalidResourceError as error:
        return None, str(error)


class TestScale:
    def test_kubectl_scale_is_held_to_the_bounds_of_the_field(self, user: User) -> None:
        user.make(spec_of(MINIMAL))
        user.kubectl("scale", "dpipe/painter", "--replicas=1024")
        with pytest.raises(ClusterError, match=r"spec.roles.denoiser.replicas: .* less than or equal to 1024"):
            user.kubectl("scale", "dpipe/painter", "--replicas=1025")
        assert user.live()["spec"]["roles"]["denoiser"]["replicas"] == 1024

    def test_kubectl_scale_is_refused_with_the_scalers_name_while_somebody_else_counts(self, user: User) -> None:
        user.make(spec_of(f"{MINIMAL}\nroles: {{denoiser: {{scaling: {{mode: External}}}}}}"))
        remedy = "scale the role by its scaler instead: kubectl scale dprs/painter-denoiser --replicas=N"
        with pytest.raises(ClusterError, match=remedy):
            user.kubectl("scale", "dpipe/painter", "--replicas=3")
        assert user.live()["spec"]["roles"]["denoiser"]["replicas"] == 1

    def test_kubectl_scale_is_refused_while_another_role_must_have_as_many(self, user: User) -> None:
        user.make(spec_of(f"{MINIMAL}\nroles: {{encoder: {{colocateWith: denoiser, replicas: 1}}}}"))
        with pytest.raises(ClusterError, match=r"encoder\.replicas must be left out, or equal denoiser"):
            user.kubectl("scale", "dpipe/painter", "--replicas=3")


class TestScaler:
    def scaler(self, **spec: Any) -> JSON:
        given = {"pipelineRef": {"name": "painter"}, "role": "denoiser", **spec}
        kind = {"apiVersion": API_VERSION, "kind": "DiffusionPipelineRoleScaler"}
        return {**kind, "metadata": {"name": "painter-denoiser"}, "spec": given}

    def test_it_has_one_replica_unless_it_says_otherwise_as_an_autoscaler_needs_a_number(self, user: User) -> None:
        assert user.api.post(user.scalers, self.scaler())["spec"]["replicas"] == 1
        scale = user.api.get(f"{user.scalers}/painter-denoiser/scale")
        assert scale["spec"] == {"replicas": 1}

    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ({"replicas": -1}, "spec.replicas: Invalid value: -1"),
            ({"replicas": 1025}, "spec.replicas: Invalid value: 1025"),
            ({"role": "router"}, 'spec.role: Unsupported value: "router"'),
            ({"role": None}, "spec.role: Required value"),
            ({"pipelineRef": {}}, "spec.pipelineRef.name: Required value"),
            ({"pipelineRef": {"name": ""}}, "spec.pipelineRef.name: Invalid value"),
        ],
    )
    def test_a_wrong_one_is_refused(self, spec: JSON, words: str, user: User) -> None:
        with pytest.raises(Refused, match=re.escape(words)):
            user.api.post(user.scalers, self.scaler(**spec))

    @pytest.mark.parametrize("change", [{"role": "encoder"}, {"pipelineRef": {"name": "another"}}])
    def test_it_stays_with_its_role(self, change: JSON, user: User) -> None:
        user.api.post(user.scalers, self.scaler())
        (rule,) = rules(crd.schema(SCALER_PLURAL))
        with pytest.raises(Refused, match=re.escape(rule["message"])):
            user.api.patch(f"{user.scalers}/painter-denoiser", {"spec": change})


class TestDefinitions:
    def test_a_plain_kubectl_apply_installs_and_updates_them(self, cluster: Cluster) -> None:
        cluster.kubectl("apply", "-f", CRDS)
        told = cluster.kubectl("apply", "-f", CRDS).splitlines()
        assert sorted(told) == sorted(
            f"customresourcedefinition.apiextensions.k8s.io/{file.stem}.{crd.GROUP} unchanged"
            for file in CRDS.glob("*.yaml")
        )

    def test_kubectl_explains_every_field(self, cluster: Cluster) -> None:
        for path, field in fields(crd.schema()):
            if path[0] in {"spec", "status"}:
                assert field.get("description"), path
        page = f"/openapi/v3/apis/{API_VERSION}"
        cluster.until(lambda: cluster.api.exists(page), 30, "the definitions are explained")
        explained = cluster.kubectl("explain", "dpipe.spec.roles.denoiser")
        assert "KIND:       DiffusionPipeline" in explained
        assert "<no description>" not in explained
        known = SPEC["properties"]["roles"]["properties"]["denoiser"]["properties"]
        assert set(re.findall(r"^  (\w+)\t<", explained, re.MULTILINE)) == set(known)
        for word in ("mooncake", "tcp", "shm"):
            assert word in cluster.kubectl("explain", "dpipe.spec.transport.backend")
