"""What can't be changed is refused in words: rules that compare a resource with its former self.

Evaluated here with CEL alone; that the API server does the same, also for writes to /scale, is a test of the cluster's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cel
import pytest
import yaml

from diffusion_operator.api import SCALER_PLURAL, crd, with_defaults

HUB = "model: {id: a/b}"
CLAIMED = "\nrouter: {{storage: {{type: PersistentVolumeClaim{}}}}}"
BALANCED = "\nrouter: {{service: {{type: LoadBalancer{}}}}}"


def pipeline(spec: str) -> dict[str, Any]:
    return with_defaults(
        {
            "apiVersion": crd.API_VERSION,
            "kind": crd.KIND,
            "metadata": {"name": "painter"},
            "spec": yaml.safe_load(spec),
        }
    )


def refusals(old: Any, new: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] or rule.get("optionalOldSelf"):
            continue
        context = cel.Context(variables={"self": new, "oldSelf": old})
        if cel.compile(rule["rule"]).execute(context) is not True:
            expression = rule.get("messageExpression")
            yield cel.compile(expression).execute(context) if expression else rule["message"]
    if isinstance(new, Mapping) and isinstance(old, Mapping):
        for key, field in schema.get("properties", {}).items():
            if key in new and key in old:
                yield from refusals(old[key], new[key], field)


REFUSED_EDITS = [
    (HUB, "model: {id: a/c}", "id can't be changed"),
    (HUB, "model: {source: Path, id: /a}", "source can't be changed"),
    (HUB, "model: {id: a/b, cache: {type: PerPod}}", "type can't be changed to or from PerPod"),
    ("model: {id: a/b, cache: {type: PerPod}}", HUB, "type can't be changed to or from PerPod"),
    (
        "model: {id: a/b, cache: {type: PerPod}}",
        "model: {id: a/b, cache: {type: PerPod, storageClassName: fast}}",
        "storageClassName can't be changed while type is PerPod",
    ),
    (HUB, HUB + CLAIMED.format(""), "type and storageClassName can't be changed"),
    (
        HUB + CLAIMED.format(", storageClassName: fast"),
        HUB + CLAIMED.format(", storageClassName: slow"),
        "type and storageClassName can't be changed",
    ),
    *(
        (HUB + BALANCED.format(old), HUB + BALANCED.format(new), "loadBalancerClass can't be changed")
        for old, new in (("", ", loadBalancerClass: a"), (", loadBalancerClass: a", ", loadBalancerClass: b"))
    ),
    *(
        (
            HUB + f"\nroles: {{{role}: {{scaling: {{mode: External}}, replicas: 2}}}}",
            HUB + f"\nroles: {{{role}: {{scaling: {{mode: External}}{replicas}}}}}",
            f"kubectl scale dprs/painter-{role} --replicas=N",
        )
        for role in ("encoder", "denoiser", "decoder")
        for replicas in (", replicas: 3", "")
    ),
]


@pytest.mark.parametrize(("old", "new", "words"), REFUSED_EDITS)
def test_an_edit_that_cannot_be_carried_out_is_refused_with_its_remedy(old: str, new: str, words: str) -> None:
    found = list(refusals(pipeline(old), pipeline(new), crd.schema()))
    assert any(words in text for text in found)


ALLOWED_EDITS = [
    ("model: {source: Bundled}", "model: {source: Bundled, id: digits}"),
    (HUB, "model: {id: a/b, revision: main, dtype: float16, tokenSecretRef: {name: hub}}"),
    (HUB, "model: {id: a/b, cache: {size: 1Gi}}"),
    (HUB, "model: {id: a/b, cache: {type: PersistentVolumeClaim, claimName: c}}"),
    (HUB, "model: {id: a/b, adapters: [{name: a, source: Hub, id: c/d}], adapterSource: {path: /a}}"),
    (HUB, "model: {id: a/b, controlNets: [{name: a, source: Hub, id: c/d, subfolder: e/f, scale: 0.5}]}"),
    (HUB, "model: {id: a/b, ipAdapters: [{name: a, source: Hub, id: c/d, file: e/f.safetensors, imageEncoder: e/g}]}"),
    (HUB, "model: {id: a/b, allowPickle: true, ipAdapters: [{name: a, source: Hub, id: c/d, file: f.bin}]}"),
    ("model: {id: a/b, adapters: [{name: a, source: Hub, id: c/d}]}", "model: {id: a/b, adapterSource: {path: /a}}"),
    (HUB, HUB + "\nrouter: {storage: {size: 1Gi}}"),
    # Whether claims can grow is for their storage class to say.
    (HUB + CLAIMED.format(", size: 1Gi"), HUB + CLAIMED.format(", size: 2Gi")),
    (HUB + CLAIMED.format(""), HUB + CLAIMED.format(", size: 20Gi")),
    ("model: {id: a/b, cache: {type: PerPod}}", "model: {id: a/b, cache: {type: PerPod, size: 100Gi}}"),
    (HUB, HUB + BALANCED.format(", loadBalancerClass: a")),
    (HUB + BALANCED.format(", loadBalancerClass: a"), HUB),
    (HUB, HUB + "\nrestart: {id: today}"),
    # Handing a role over to its scaler, and back, may come with another number.
    (HUB, HUB + "\nroles: {denoiser: {scaling: {mode: External}, replicas: 2}}"),
    (HUB + "\nroles: {encoder: {scaling: {mode: External}}}", HUB + "\nroles: {encoder: {replicas: 2}}"),
    (HUB, HUB + "\nroles: {encoder: {replicas: 0}, denoiser: {replicas: 0}, decoder: {replicas: 0}}"),
]


@pytest.mark.parametrize(("old", "new"), ALLOWED_EDITS)
def test_other_edits_are_allowed(old: str, new: str) -> None:
    assert list(refusals(pipeline(old), pipeline(new), crd.schema())) == []


def test_a_scaler_stays_with_its_role() -> None:
    schema = crd.schema(SCALER_PLURAL)

    def scaler(name: str, role: str) -> dict[str, Any]:
        return {"spec": {"pipelineRef": {"name": name}, "role": role, "replicas": 1}}

    assert list(refusals(scaler("a", "encoder"), scaler("a", "encoder"), schema)) == []
    for other in (scaler("b", "encoder"), scaler("a", "decoder")):
        assert "pipelineRef and role can't be changed" in next(refusals(scaler("a", "encoder"), other, schema))
