"""One operator at work among several: whoever holds the Lease.

The rules are client-go's. A holder renews; others watch how long the record stays unchanged on *their* clock, so that
clocks need not agree. A holder that could not renew for two thirds of the lease stops being one while nobody else
can have become it yet, and its process ends: nothing else makes sure that a request of its is not still on the way.

`kubernetes.aio` has an election too; its requests have no deadline shorter than five minutes, so that a holder whose
API server hangs goes on for long after another took over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from diffusion_operator.cluster.client import ApiError, Cluster, Unreachable
from diffusion_operator.cluster.kinds import LEASE

_RENEW_SHARE: Final = 2 / 3
_RETRY_SHARE: Final = 2 / 15

log = structlog.get_logger()


class LeaseLost(Exception):
    """Somebody else may work from now on: this process must end."""


class Leader:
    """A candidate. `identity` differs from every other process's; `lease_seconds` must be the same for all."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        namespace: str,
        name: str,
        identity: str,
        lease_seconds: float,
        became: Callable[[bool], None] = lambda leading: None,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seconds = lease_seconds
        self._became = became
        self._seen: tuple[object, object] | None = None
        """The record as last seen, and since when on our clock."""
        self._seen_at = 0.0

    async def acquire(self) -> None:
        """Return once this process holds the Lease."""
        self._became(False)
        while not await self._try():  # noqa: ASYNC110  # nothing tells when a Lease is free
            await asyncio.sleep(self._seconds * _RETRY_SHARE)
        log.info("leading", lease=f"{self._namespace}/{self._name}", identity=self._identity)
        self._became(True)

    async def hold(self) -> None:
        """Renew for as long as it can be. Raises LeaseLost; never returns."""
        renewed = time.monotonic()
        while True:
            left = renewed + self._seconds * _RENEW_SHARE - time.monotonic()
            try:
                async with asyncio.timeout(left):
                    began = time.monotonic()
                    if await self._try():
                        renewed = began
                    await asyncio.sleep(self._seconds * _RETRY_SHARE)
            except TimeoutError:
                pass
            if time.monotonic() - renewed >= self._seconds * _RENEW_SHARE:
                self._became(False)
                raise LeaseLost(
                    f"Lease {self._namespace}/{self._name} could not be renewed for "
                    f"{self._seconds * _RENEW_SHARE:.0f} s"
                )

    async def release(self) -> None:
        """Let another take over at once, rather than after the lease's time. Best effort."""
        try:
            async with asyncio.timeout(self._seconds * _RETRY_SHARE):
                lease = await self._cluster.get(LEASE, self._namespace, self._name)
                if lease["spec"].get("holderIdentity") == self._identity:
                    lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                    await self._cluster.replace(LEASE, lease)
        except (ApiError, Unreachable, TimeoutError) as error:
            log.info("lease_not_released", error=str(error))

    async def _try(self) -> bool:
        """Take or renew the Lease; whether this process holds it now."""
        try:
            lease = await self._cluster.get(LEASE, self._namespace, self._name)
        except ApiError as error:
            if error.status != 404:
                log.warning("lease_not_read", error=str(error))
                return False
            return await self._write(self._record(None), create=True)
        except Unreachable as error:
            log.warning("lease_not_read", error=str(error))
            return False
        spec = lease.get("spec", {})
        holder = spec.get("holderIdentity")
        if holder not in (self._identity, "", None) and not self._expired(spec):
            return False
        return await self._write({**lease, "spec": self._record(spec)}, create=False)

    def _expired(self, spec: dict[str, Any]) -> bool:
        seen = (spec.get("holderIdentity"), spec.get("renewTime"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, time.monotonic()
        return time.monotonic() - self._seen_at >= float(spec.get("leaseDurationSeconds") or self._seconds)

    def _record(self, before: dict[str, Any] | None) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = before or {}
        ours = before.get("holderIdentity") == self._identity
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": round(self._seconds),
            "acquireTime": before.get("acquireTime", now) if ours else now,
            "renewTime": now,
            "leaseTransitions": before.get("leaseTransitions", 0) + (0 if ours or not before else 1),
        }

    async def _write(self, item: dict[str, Any], *, create: bool) -> bool:
        try:
            if create:
                metadata = {"name": self._name, "namespace": self._namespace}
                lease = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": metadata, "spec": item}
                await self._cluster.create(LEASE, lease)
            else:
                await self._cluster.replace(LEASE, item)
        except ApiError as error:
            # 409: another was quicker.
            if error.status != 409:
                log.warning("lease_not_written", error=str(error))
            return False
        except Unreachable as error:
            log.warning("lease_not_written", error=str(error))
            return False
        return True
