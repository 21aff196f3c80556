"""Why a StatefulSet's pods are missing, out of the Events of its controller, whose words these are."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_operator.status.events import refusal
from diffusion_operator.status.observed import Refusal


def event(error: str, **differing: Any) -> dict[str, Any]:
    return {
        "type": "Warning",
        "reason": "FailedCreate",
        "involvedObject": {"kind": "StatefulSet", "name": "digits-denoiser", "namespace": "ai"},
        "message": f"create Pod digits-denoiser-0 in StatefulSet digits-denoiser failed error: {error}",
        **differing,
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(
            event(
                'pods "digits-denoiser-0" is forbidden: violates PodSecurity "baseline:latest": non-default '
                'capabilities (container "main" must not include "IPC_LOCK" in securityContext.capabilities.add)'
            ),
            Refusal(
                reason="NamespacePodSecurity",
                message='violates PodSecurity "baseline:latest": non-default capabilities (container "main" must not '
                'include "IPC_LOCK" in securityContext.capabilities.add)',
            ),
            id="the namespace's PodSecurity level forbids what the pod asks for",
        ),
        pytest.param(
            event(
                'pods "digits-denoiser-1" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, '
                "used: requests.nvidia.com/gpu=4, limited: requests.nvidia.com/gpu=4"
            ),
            Refusal(
                reason="QuotaExceeded",
                message="exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=4, "
                "limited: requests.nvidia.com/gpu=4",
            ),
            id="a ResourceQuota is used up",
        ),
        pytest.param(
            event('pods "digits-denoiser-0" is forbidden: failed quota: cpu: must specify limits.cpu for: main'),
            Refusal(reason="QuotaExceeded", message="failed quota: cpu: must specify limits.cpu for: main"),
            id="a ResourceQuota wants limits that the pod lacks",
        ),
        pytest.param(
            event(
                "",
                message="create Claim models-digits-denoiser-0 for Pod digits-denoiser-0 in StatefulSet "
                'digits-denoiser failed error: persistentvolumeclaims "models-digits-denoiser-0" is forbidden: '
                "exceeded quota: disks",
            ),
            Refusal(reason="QuotaExceeded", message="claim models: exceeded quota: disks"),
            id="the quota of volumes is used up",
        ),
        pytest.param(
            event('admission webhook "policy.example.com" denied the request: no tag latest'),
            Refusal(
                reason="PodsRefused",
                message='admission webhook "policy.example.com" denied the request: no tag latest',
            ),
            id="a webhook says no",
        ),
        pytest.param(
            event("", message=""),
            Refusal(reason="PodsRefused", message="the StatefulSet controller does not say why"),
            id="no words at all",
        ),
        pytest.param(event("", type="Normal", reason="SuccessfulCreate"), None, id="a pod was created"),
        pytest.param(event("", reason="BackOff"), None, id="a warning of something else"),
        pytest.param(event("", involvedObject={"kind": "Job", "name": "x"}), None, id="it is about another kind"),
    ],
)
def test_an_event_tells_why_a_pod_was_refused(given: dict[str, Any], expected: Refusal | None) -> None:
    assert refusal(given) == expected


def test_the_refusal_is_the_same_for_every_pod() -> None:
    texts = [f'pods "digits-denoiser-{number}" is forbidden: violates PodSecurity "restricted"' for number in range(3)]
    assert len({refusal(event(text)) for text in texts}) == 1
