"""What an API server takes and does not keep, because the feature that it belongs to is off."""

from __future__ import annotations

from diffusion_operator.cluster.kinds import STATEFUL_SET, Kind, Object
from diffusion_operator.status import reasons
from diffusion_operator.status.observed import Fault


def fault(kind: Kind, sent: Object, answer: Object) -> Fault | None:
    """Of pods that would come up without the devices that they are to claim."""
    if kind is not STATEFUL_SET:
        return None
    wanted, kept = (_claims(one["spec"]["template"]["spec"]) for one in (sent, answer))
    if wanted <= kept:
        return None
    return Fault(
        reason=reasons.APPLY_FAILED,
        message=f"StatefulSet {sent['metadata']['name']}: this cluster drops its pods' resourceClaims "
        f"({', '.join(sorted(wanted - kept))}), as its dynamic resource allocation is off (on by default since "
        "Kubernetes 1.34): turn it on, or ask a device plugin instead, by gpus and transport.rdma.resourceName",
    )


def _claims(pod: Object) -> set[str]:
    return {claim["name"] for claim in pod.get("resourceClaims") or ()}
