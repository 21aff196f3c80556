"""The cluster as kubectl reaches it: with the user's own context, rights and ways to log in."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Object = Mapping[str, Any]

_SECONDS: Final = 60


class ClusterError(Exception):
    """kubectl is missing, or said no; in its words."""


@dataclass(frozen=True)
class Kubectl:
    context: str | None = None
    namespace: str | None = None
    """None: the context's."""

    def every(self, kind: str, *, selector: str = "", everywhere: bool = False) -> list[Object]:
        """Raises ClusterError."""
        arguments = ["get", kind, "--output=json", *(["--selector", selector] if selector else [])]
        return _items(self._run(*arguments, *(["--all-namespaces"] if everywhere else [])))

    def get(self, kind: str, name: str) -> Object | None:
        """Raises ClusterError; None: there is none."""
        found = _items(self._run("get", kind, name, "--ignore-not-found", "--output=json"))
        return found[0] if found else None

    def patch(self, kind: str, name: str, operations: Sequence[Mapping[str, Any]]) -> None:
        """By a JSON patch. Raises ClusterError."""
        self._run("patch", kind, name, "--type=json", f"--patch={json.dumps(operations)}")

    def applied(self, manifest: str, *, server_side: bool) -> list[Object]:
        """The objects as `kubectl apply` would leave them, by the API server's own word (a dry run).

        Raises ClusterError, also for what the API server would refuse.
        """
        options = ["--server-side"] if server_side else []
        return _items(self._run("apply", "--dry-run=server", *options, "--filename=-", "--output=json", given=manifest))

    def _run(self, *arguments: str, given: str | None = None) -> str:
        program = shutil.which("kubectl")
        if program is None:
            raise ClusterError("this asks the cluster by kubectl, which is not on PATH")
        context = [f"--context={self.context}"] if self.context else []
        namespace = [f"--namespace={self.namespace}"] if self.namespace else []
        command = [program, *context, *namespace, f"--request-timeout={_SECONDS}s", *arguments]
        try:
            done = subprocess.run(
                command, input=given or "", capture_output=True, text=True, check=False, timeout=2 * _SECONDS
            )
        except subprocess.TimeoutExpired:
            raise ClusterError(f"kubectl {arguments[0]} did not answer within {2 * _SECONDS} s") from None
        if done.returncode:
            raise ClusterError(done.stderr.strip() or f"kubectl {arguments[0]} ended with {done.returncode}")
        return done.stdout


def _items(text: str) -> list[Object]:
    """kubectl prints one object, a List, or several one after the other."""
    decoder, rest = json.JSONDecoder(), text.strip()
    found: list[Object] = []
    while rest:
        item, end = decoder.raw_decode(rest)
        found += item["items"] if item["kind"].endswith("List") else [item]
        rest = rest[end:].lstrip()
    return found
