"""What `helm test` runs: the API server serves the resources, and the operator answers. It writes nothing."""

from __future__ import annotations

import json
import os
import ssl
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SCALED = ("diffusionpipelines", "diffusionpipelinerolescalers")
RESOURCES = (*SCALED, "modelcaches")


def read(url: str, token: str | None = None, authority: Path | None = None) -> str:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    context = None if authority is None else ssl.create_default_context(cafile=str(authority))
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10, context=context) as answer:
        body: bytes = answer.read()
    return body.decode()


def served(api_server: str, account: Path) -> None:
    """Discovery is open to every account, so that this needs no rights."""
    url = f"{api_server}/apis/diffusion-operator.dev/v1alpha1"
    found = json.loads(read(url, (account / "token").read_text().strip(), account / "ca.crt"))
    expected = {*RESOURCES, *(f"{name}/scale" for name in SCALED)}
    if missing := expected - {item["name"] for item in found["resources"]}:
        raise LookupError(f"{url} lacks {', '.join(sorted(missing))}: apply the chart's crds/ again")


def ready(operator: str) -> None:
    read(f"{operator}/readyz")


def measured(operator: str) -> None:
    if "\ndiffusion_operator_build_info{" not in read(f"{operator}/metrics"):
        raise LookupError(f"{operator}/metrics lacks diffusion_operator_build_info: another process answers there")


def main(api_server: str, operator: str, account: Path = ACCOUNT) -> int:
    code = 0
    checks: tuple[tuple[str, Callable[[], None]], ...] = (
        (
            "the API server serves DiffusionPipelines, their scalers and ModelCaches",
            lambda: served(api_server, account),
        ),
        ("the operator is ready", lambda: ready(operator)),
        ("the operator tells its metrics", lambda: measured(operator)),
    )
    for name, check in checks:
        try:
            check()
        except (OSError, ValueError, LookupError) as error:
            print(f"FAILED  {name}: {error}")
            code = 1
        else:
            print(f"ok      {name}")
    return code


if __name__ == "__main__":
    sys.exit(main(os.environ["API_SERVER"], os.environ["OPERATOR"]))
