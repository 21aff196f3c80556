"""A cluster without dynamic resource allocation keeps no claims of devices, and says nothing; the operator does."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from diffusion_operator.cluster.keys import Key
from diffusion_operator.reconcile.apply import Applier, Owner
from diffusion_operator.render import render
from unit.render.children import Child, pipeline, stateful_sets

CLAIMS = [{"name": "gpu", "resourceClaimTemplateName": "large"}]


class Api:
    """Of the API server, as far as a child that is not there yet is made."""

    def __init__(self, *, drops: bool) -> None:
        self._drops = drops

    async def apply(self, kind: Any, made: Child) -> Child:
        answer = deepcopy(made)
        answer["metadata"] |= {"resourceVersion": "7", "uid": "child"}
        if self._drops:
            pod = answer["spec"]["template"]["spec"]
            pod.pop("resourceClaims", None)
            pod["containers"][0].get("resources", {}).pop("claims", None)
        return answer


class Nothing:
    """A store that knows no child yet."""

    def child(self, *_: Any) -> None:
        return None

    def wrote(self, *_: Any) -> None:
        pass


async def faults(*, drops: bool, **roles: Any) -> list[str]:
    denoiser = stateful_sets(render(pipeline(roles=roles)))["denoiser"]
    api: Any = Api(drops=drops)
    nothing: Any = Nothing()
    applier = Applier(api, nothing, nothing, lambda kind: None)
    applied = await applier.apply(Owner(Key("ai", "digits"), "uid"), [denoiser])
    return [fault.message for fault in applied.faults]


async def test_claims_that_are_dropped_are_a_fault_with_its_remedy() -> None:
    (told,) = await faults(drops=True, denoiser={"device": "cuda", "resourceClaims": CLAIMS})
    assert told.startswith("StatefulSet digits-denoiser: this cluster drops its pods' resourceClaims (gpu)")
    assert "1.34" in told


@pytest.mark.parametrize(("drops", "role"), [(False, {"device": "cuda", "resourceClaims": CLAIMS}), (True, {})])
async def test_what_is_kept_or_was_never_asked_for_is_none(drops: bool, role: Child) -> None:
    assert await faults(drops=drops, denoiser=role) == []
