"""Which RDMA resources the cluster's nodes offer, to say it to somebody whose pods ask for one that none has.

The resource's name is free text of each cluster's device plugin, and a wrong one looks like a full cluster. Nodes are
read only when pods of an RDMA pipeline can't be scheduled, and no more than once a minute for all of them.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Final

import structlog

from diffusion_operator.api import Pipeline
from diffusion_operator.cluster.client import ApiError, Cluster, Unreachable
from diffusion_operator.cluster.kinds import NODE
from diffusion_operator.status import reasons
from diffusion_operator.status.observed import Observed

KEPT_SECONDS: Final = 60.0
_WORDS: Final = ("rdma", "hca", "roce", "infiniband", "efa", "/ib")

log = structlog.get_logger()


class RdmaResources:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._read = float("-inf")
        self._found: tuple[str, ...] | None = None

    async def explain(self, pipeline: Pipeline, observed: Observed) -> Observed:
        """`observed` with the resources that nodes offer, where they help to explain it."""
        rdma = pipeline.transport.rdma
        if rdma is None or not rdma.resources:
            return observed
        problems = (problem for role in observed.roles.values() for problem in role.problems)
        if not any(problem.reason == reasons.UNSCHEDULABLE for problem in problems):
            return observed
        return dataclasses.replace(observed, rdma_resources=await self._offered())

    async def _offered(self) -> tuple[str, ...] | None:
        if time.monotonic() - self._read < KEPT_SECONDS:
            return self._found
        found: set[str] = set()
        self._read, self._found = time.monotonic(), None
        try:
            async for page in self._cluster.pages(NODE, None):
                for node in page.items:
                    offers = node.get("status", {}).get("allocatable", {})
                    found |= {name for name in offers if any(word in name.lower() for word in _WORDS)}
        except (ApiError, Unreachable) as error:
            # A namespaced operator may not read nodes; the message is then without this help.
            log.info("nodes_not_read", error=str(error))
            return None
        self._found = tuple(sorted(found))
        return self._found
