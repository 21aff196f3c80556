"""Claims that are to be larger than their StatefulSet was made with.

Nobody can change a StatefulSet's templates of claims, but a claim can grow where its storage class allows it. So every
claim is asked to grow, those of pods that are gone for now as well; then the StatefulSet is deleted without its pods,
and made anew around them, for claims to come. Until then its templates are others than what is wanted, so whatever ends
the operator in between, the next attempt goes on.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import structlog

from diffusion_operator.api.quantity import exact
from diffusion_operator.cluster.client import ApiError, Cluster
from diffusion_operator.cluster.keys import Key
from diffusion_operator.cluster.kinds import CLAIM, Object
from diffusion_operator.render import names
from diffusion_operator.status import reasons
from diffusion_operator.status.observed import Fault

_FIELDS: Final = {names.DATA_VOLUME: "spec.router.storage.size", names.CACHE_VOLUME: "spec.model.cache.size"}
# The API server's words for a class without allowVolumeExpansion, or none.
_NO_EXPANSION: Final = "must support resize"

log = structlog.get_logger()


class NotGrown(Exception):
    """`fault`: why the claims stay as they are; None: one is not bound yet, and can grow once it is."""

    def __init__(self, why: str, fault: Fault | None = None) -> None:
        super().__init__(why)
        self.fault = fault


async def grow(cluster: Cluster, key: Key, live: Mapping[str, Any], sizes: Mapping[str, tuple[str, str]]) -> None:
    """Have all claims of the StatefulSet `live` ask for other sizes: by template, what it was and what it is to be.

    Raises NotGrown, ApiError, Unreachable.
    """
    name = live["metadata"]["name"]
    for template, (made, size) in sizes.items():
        if exact(size) < exact(made):
            raise _refused(f"StatefulSet {name}", template, made, f"none can become smaller, and {size} is less")
    async for template, claim in _claims(cluster, key, live, sizes):
        await _grow(cluster, key, template, claim, sizes[template][1])


async def _claims(
    cluster: Cluster, key: Key, live: Mapping[str, Any], templates: Mapping[str, Any]
) -> AsyncIterator[tuple[str, Object]]:
    """Each with the template that it was made of."""
    labels = live["spec"]["selector"]["matchLabels"]
    selector = ",".join(f"{name}={value}" for name, value in labels.items())
    # Labels alone do not tell the two tracks from each other.
    named = re.compile(rf"({'|'.join(map(re.escape, templates))})-{re.escape(live['metadata']['name'])}-[0-9]+")
    async for page in cluster.pages(CLAIM, key.namespace, label_selector=selector):
        for claim in page.items:
            if match := named.fullmatch(claim["metadata"]["name"]):
                yield match[1], claim


async def _grow(cluster: Cluster, key: Key, template: str, claim: Object, size: str) -> None:
    name, spec = claim["metadata"]["name"], claim["spec"]
    now = spec["resources"]["requests"]["storage"]
    if exact(now) >= exact(size):
        return
    if claim.get("status", {}).get("phase") != "Bound":
        raise NotGrown(f"PersistentVolumeClaim {name} is not bound, and can grow to {size} once it is")
    try:
        await cluster.merge(CLAIM, key.namespace, name, {"spec": {"resources": {"requests": {"storage": size}}}})
    except ApiError as error:
        if _NO_EXPANSION not in error.message:
            raise
        storage_class = spec.get("storageClassName", "")
        why = f"storage class {storage_class!r} does not let claims grow (allowVolumeExpansion)"
        raise _refused(f"PersistentVolumeClaim {name}", template, now, why) from error
    log.info("claim_grows", pipeline=str(key), name=name, before=now, after=size)


def _refused(what: str, template: str, size: str, why: str) -> NotGrown:
    field = _FIELDS.get(template, template)
    message = f"{what}: claims stay at {size}, as {why}; set {field} to {size}"
    return NotGrown(message, Fault(reason=reasons.IMMUTABLE_FIELD_CHANGED, message=message))
