"""Who asked the API server for what: read from its own audit log, so that no client's word is taken for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})

# Everybody's writes; reads but those of the cluster's own parts and of its administrator, which nobody counts.
POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["*"]
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: None
  userGroups: ["system:masters", "system:serviceaccounts:kube-system"]
- level: None
  users: ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"]
- level: Metadata
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    user: str
    verb: str
    group: str
    resource: str
    subresource: str
    namespace: str
    name: str
    code: int
    uri: str

    @property
    def is_write(self) -> bool:
        return self.verb in WRITES and "dryRun=" not in self.uri


class Audit:
    """A request is in the log before its answer is sent, if the answer is shorter than 4 KiB, or soon after it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def mark(self) -> int:
        """Now, as `entries` takes it."""
        return self.file.stat().st_size if self.file.exists() else 0

    def entries(self, since: int = 0, **fields: str | int) -> list[Entry]:
        """What was asked since a mark, of which all `fields` are as given: `user="system:operator", verb="patch"`."""
        return [e for e in self._read(since) if all(getattr(e, name) == value for name, value in fields.items())]

    def writes(self, since: int = 0, **fields: str | int) -> list[Entry]:
        """Requests to change something, also those that were refused or changed nothing."""
        return [entry for entry in self.entries(since, **fields) if entry.is_write]

    def _read(self, since: int) -> Iterator[Entry]:
        with self.file.open("rb") as log:
            log.seek(since)
            for line in log:
                if not line.endswith(b"\n"):
                    return  # being written
                event = json.loads(line)
                # A watch is told of when it starts and again when it ends.
                if event["stage"] == ("ResponseStarted" if event["verb"] == "watch" else "ResponseComplete"):
                    about = event.get("objectRef", {})
                    yield Entry(
                        user=event["user"]["username"],
                        verb=event["verb"],
                        group=about.get("apiGroup", ""),
                        resource=about.get("resource", ""),
                        subresource=about.get("subresource", ""),
                        namespace=about.get("namespace", ""),
                        name=about.get("name", ""),
                        code=event.get("responseStatus", {}).get("code", 0),
                        uri=event["requestURI"],
                    )
