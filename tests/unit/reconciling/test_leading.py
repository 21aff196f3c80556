"""At no time do two processes believe that they lead, whatever their API server does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from diffusion_operator.cluster.client import ApiError, Unreachable
from diffusion_operator.cluster.kinds import Kind
from diffusion_operator.leader import Leader, LeaseLost
from testbed.waiting import always, eventually

SECONDS = 0.6


class OneLease:
    """An API server that has room for one Lease, with optimistic locking, and may be cut off or hang for one client."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.leaders: set[str] = set()
        self.most_leaders = 0

    def client(self) -> Client:
        return Client(self)


class Client:
    def __init__(self, server: OneLease) -> None:
        self._server = server
        self.cut = False
        self.hangs = False

    async def _reach(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.cut:
            raise Unreachable("cut off")
        await asyncio.sleep(0)

    async def get(self, kind: Kind, namespace: str, name: str) -> dict[str, Any]:
        await self._reach()
        if self._server.lease is None:
            raise ApiError("GET lease", 404, "NotFound", "not found", None)
        return {**self._server.lease, "spec": dict(self._server.lease["spec"])}

    async def create(self, kind: Kind, item: dict[str, Any]) -> None:
        await self._reach()
        if self._server.lease is not None:
            raise ApiError("POST lease", 409, "AlreadyExists", "exists", None)
        self._store(item)

    async def replace(self, kind: Kind, item: dict[str, Any]) -> None:
        await self._reach()
        assert self._server.lease is not None
        if item["metadata"]["resourceVersion"] != self._server.lease["metadata"]["resourceVersion"]:
            raise ApiError("PUT lease", 409, "Conflict", "changed", None)
        self._store(item)

    def _store(self, item: dict[str, Any]) -> None:
        self._server.version += 1
        metadata = {**item["metadata"], "resourceVersion": str(self._server.version)}
        self._server.lease = {**item, "metadata": metadata}


class Candidate:
    def __init__(self, server: OneLease, name: str) -> None:
        self.client = server.client()
        self._server = server
        self._name = name
        self.leader = Leader(
            self.client,  # type: ignore[arg-type]
            namespace="ns",
            name="operator",
            identity=name,
            lease_seconds=SECONDS,
            became=self._became,
        )

    @property
    def leads(self) -> bool:
        return self._name in self._server.leaders

    def _became(self, leading: bool) -> None:
        if leading:
            self._server.leaders.add(self._name)
        else:
            self._server.leaders.discard(self._name)
        self._server.most_leaders = max(self._server.most_leaders, len(self._server.leaders))

    async def live(self) -> None:
        await self.leader.acquire()
        await self.leader.hold()


@pytest.fixture
def server() -> OneLease:
    return OneLease()


async def until_leads(*candidates: Candidate, seconds: float = 10.0) -> None:
    await eventually(lambda: any(one.leads for one in candidates), seconds, "one of them leads")


async def test_of_several_one_leads(server: OneLease) -> None:
    candidates = [Candidate(server, name) for name in "abc"]
    tasks = [asyncio.create_task(one.live()) for one in candidates]
    await until_leads(*candidates)
    await always(lambda: len(server.leaders) == 1, 2 * SECONDS, "one of them leads")
    assert server.most_leaders == 1
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize("fault", ["cut", "hangs"])
async def test_a_leader_that_cannot_renew_stops_before_another_starts(server: OneLease, fault: str) -> None:
    first, second = Candidate(server, "first"), Candidate(server, "second")
    losing = asyncio.create_task(first.live())
    await until_leads(first)
    following = asyncio.create_task(second.live())
    setattr(first.client, fault, True)
    await until_leads(second)
    assert server.most_leaders == 1
    assert not first.leads
    with pytest.raises(LeaseLost, match="could not be renewed"):
        await losing
    following.cancel()


async def test_a_lease_that_is_handed_on_is_taken_at_once(server: OneLease) -> None:
    first, second = Candidate(server, "first"), Candidate(server, "second")
    holding = asyncio.create_task(first.live())
    await until_leads(first)
    holding.cancel()
    await first.leader.release()
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == ""
    following = asyncio.create_task(second.live())
    await until_leads(second, seconds=SECONDS / 2)
    assert server.lease["spec"]["leaseTransitions"] == 1
    following.cancel()


async def test_a_restarted_process_waits_for_the_lease_of_its_former_self(server: OneLease) -> None:
    first, second = Candidate(server, "pod_1"), Candidate(server, "pod_2")
    killed = asyncio.create_task(first.live())
    await until_leads(first)
    killed.cancel()
    began = asyncio.get_running_loop().time()
    following = asyncio.create_task(second.live())
    await until_leads(second)
    assert asyncio.get_running_loop().time() - began >= SECONDS * 0.9
    following.cancel()
