"""Labels and annotations that a user wants on everything are on everything, and on nothing that selects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from diffusion_operator.api import InvalidResourceError, Pipeline, Role
from diffusion_operator.render import names, render, seed
from diffusion_operator.render.generation import generation
from unit.render.children import Child, of_kind, pipeline, stateful_sets

LABELS = {"team": "paint", "kueue.x-k8s.io/queue-name": "gpus"}
ANNOTATIONS = {"example.com/cost-centre": "42: paint & film"}
COMMON = {"commonLabels": LABELS, "commonAnnotations": ANNOTATIONS}
EVERY_KIND = {
    "model": {"source": "Hub", "id": "a/b", "cache": {"type": "PerPod"}},
    "router": {"storage": {"type": "PersistentVolumeClaim"}},
    "monitoring": {"podMonitor": True},
    "networkPolicy": {"mode": "Isolate"},
}


def everything(**sections: Any) -> Pipeline:
    denoiser = {"replicas": 2, "scaling": {"mode": "External"}}
    return pipeline(**EVERY_KIND, roles={"denoiser": denoiser, "encoder": {"replicas": 2}}, **sections)


def labelled(children: list[Child]) -> Iterator[tuple[str, Child]]:
    """The metadata of all that comes of these children."""
    for child in children:
        yield f"{child['kind']} {child['metadata']['name']}", child["metadata"]
        if child["kind"] == "StatefulSet":
            yield f"pods of {child['metadata']['name']}", child["spec"]["template"]["metadata"]
            for claim in child["spec"]["volumeClaimTemplates"]:
                yield f"claims of {child['metadata']['name']}", claim["metadata"]


def test_they_are_on_every_child_every_pod_and_every_claim() -> None:
    children = render(everything(**COMMON))
    found = dict(labelled(children))
    assert {child["kind"] for child in children} == {
        *("ServiceAccount", "ConfigMap", "Service", "NetworkPolicy", "StatefulSet", "PodDisruptionBudget"),
        *("DiffusionPipelineRoleScaler", "PodMonitor"),
    }
    assert len(found) == len(children) + 8
    for where, metadata in found.items():
        assert LABELS.items() <= metadata["labels"].items(), where
        assert ANNOTATIONS.items() <= metadata["annotations"].items(), where


def test_without_them_nothing_has_a_word_of_it() -> None:
    for where, metadata in labelled(render(everything())):
        assert not where.startswith("claims") or metadata.keys() == {"name"}
        assert where.startswith("pods") or "annotations" not in metadata


def test_selectors_have_none_of_them_and_the_generation_stays() -> None:
    plain, common = everything(), everything(**COMMON)
    for ours, theirs in zip(render(plain), render(common), strict=True):
        for field in ("selector", "podSelector", "ingress", "egress"):
            assert ours.get("spec", {}).get(field) == theirs.get("spec", {}).get(field)
    assert generation(plain, "w:1") == generation(common, "w:1")


def test_what_is_said_of_one_thing_alone_wins() -> None:
    template = {"metadata": {"labels": {"team": "film"}, "annotations": {"a": "pod", "b": None}}}
    found = pipeline(
        roles={"decoder": {"podTemplate": template}},
        router={"service": {"annotations": {"a": "service"}}},
        commonLabels={"team": "paint"},
        commonAnnotations={"a": "all", "b": "all", "c": "all"},
    )
    children = render(found)
    pods = stateful_sets(children)["decoder"]["spec"]["template"]["metadata"]
    assert pods["labels"]["team"] == "film"
    assert {name: pods["annotations"].get(name) for name in "abc"} == {"a": "pod", "b": None, "c": "all"}
    assert of_kind(children, "Service")["digits-router-api"]["metadata"]["annotations"] == {
        "a": "service",
        "b": "all",
        "c": "all",
    }
    assert stateful_sets(children)["encoder"]["spec"]["template"]["metadata"]["labels"]["team"] == "paint"


def test_a_pod_keeps_the_labels_by_which_it_is_known_whatever_its_template_says() -> None:
    template = {"metadata": {"labels": {names.ROLE_LABEL: "router", names.PIPELINE_LABEL: None, "mine": "1"}}}
    pods = stateful_sets(render(pipeline(roles={"decoder": {"podTemplate": template}})))["decoder"]["spec"]["template"]
    assert names.selector(pipeline(), Role.DECODER).items() <= pods["metadata"]["labels"].items()
    assert pods["metadata"]["labels"]["mine"] == "1"


@pytest.mark.parametrize(
    "name",
    [
        *(names.PIPELINE_LABEL, names.ROLE_LABEL, names.GENERATION_LABEL, "diffusion-operator.dev/mine"),
        *(f"app.kubernetes.io/{part}" for part in ("name", "instance", "component", "part-of", "managed-by")),
        *("controller-revision-hash", "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"),
    ],
)
def test_labels_by_which_things_are_known_are_refused(name: str) -> None:
    with pytest.raises(InvalidResourceError, match="use another label"):
        pipeline(commonLabels={name: "x"})


def test_annotations_of_the_operators_own_are_refused() -> None:
    with pytest.raises(InvalidResourceError, match="use another name"):
        pipeline(commonAnnotations={"diffusion-operator.dev/applied": "x"})


@pytest.mark.parametrize("name", ["a b", "", "/a", "A/b", "a/", "a/b/c", "x" * 64, "-a", f"{'x' * 254}/a"])
@pytest.mark.parametrize("field", ["commonLabels", "commonAnnotations"])
def test_what_is_no_name_of_a_label_is_refused_with_its_path(field: str, name: str) -> None:
    with pytest.raises(InvalidResourceError, match="is no name of a label") as caught:
        pipeline(**{field: {name: "x"}})
    assert str(caught.value).startswith(f"spec.{field}")


def test_a_scaler_is_made_with_them() -> None:
    (scaler,) = of_kind(render(everything(**COMMON)), "DiffusionPipelineRoleScaler").values()
    assert LABELS.items() <= seed(scaler, 3)["metadata"]["labels"].items()
