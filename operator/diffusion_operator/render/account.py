"""The pods' service account. It has no rights and its token is mounted nowhere: no pod talks to the API server."""

from __future__ import annotations

from typing import Any

from diffusion_operator.api import Pipeline
from diffusion_operator.render import names


def service_account(pipeline: Pipeline) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": names.metadata(pipeline, names.service_account(pipeline)),
        "automountServiceAccountToken": False,
    }
