"""As soon as a worker and a peer whose outputs it reads are both there, it is told to pull that one's probe."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contract.router.conftest import DEADLINE, Router
from contract.router.scripted_worker import ScriptedWorker
from diffusionpipeline.v1 import peer_pb2, registry_pb2, stage_pb2
from testbed.waiting import eventually

ENCODE, DENOISE = stage_pb2.STAGE_ENCODE, stage_pb2.STAGE_DENOISE


def worker(router: Router, *roles: str, **differing: Any) -> ScriptedWorker:
    return ScriptedWorker(router.target, *roles, offers=True, **differing)


async def told(reader: ScriptedWorker) -> tuple[int, str, str]:
    """Which stage's outputs it is to try, of which pod, at which incarnation: empty if it is to try no more."""
    while (command := await reader.command()).HasField("peer_gone"):
        pass  # which is another's to test
    assert command.HasField("probe"), command
    return command.probe.stage, command.probe.pod_name, command.probe.payload.incarnation


async def nothing_told(one: ScriptedWorker) -> None:
    """The next command is the answer to what it says now: that nobody needs this output."""
    done = peer_pb2.StageDone(task_id=f"t.{one.incarnation}", job_id="j", stage=ENCODE)
    await one.report(stage_done=done)
    assert (await one.command()).release_slot.task_id == done.task_id


async def probed(router: Router, pod: str) -> list[tuple[int, str, float, str]]:
    answer = await router.registry.ListPeers(registry_pb2.ListPeersRequest(), timeout=DEADLINE)
    return [
        (one.stage, one.pod_name, one.bytes_per_second, one.error)
        for peer in answer.peers
        if peer.pod_name == pod
        for one in peer.probed
    ]


@pytest.mark.parametrize("order", [("encoder", "denoiser"), ("denoiser", "encoder")])
async def test_a_pair_is_made_whoever_comes_first(router: Router, order: tuple[str, str]) -> None:
    there = {role: await worker(router, role).attach() for role in order}
    encoder = there["encoder"]
    assert await told(there["denoiser"]) == (ENCODE, encoder.pod_name, encoder.incarnation)


async def test_a_worker_of_two_roles_tries_only_what_comes_from_others(router: Router) -> None:
    both = await worker(router, "encoder", "denoiser").attach()
    decoder = await worker(router, "decoder").attach()
    assert await told(decoder) == (DENOISE, both.pod_name, both.incarnation)
    await nothing_told(both)


async def test_readers_are_spread_over_makers(router: Router) -> None:
    makers = [await worker(router, "encoder").attach() for _ in range(2)]
    readers = [await worker(router, "denoiser").attach() for _ in range(4)]
    names = [(await told(reader))[1] for reader in readers]
    assert sorted(names) == sorted(2 * [maker.pod_name for maker in makers])


async def test_peers_of_another_generation_and_workers_that_know_no_probes_are_left_alone(router: Router) -> None:
    await worker(router, "encoder", generation="old").attach()
    stranger = await worker(router, "denoiser", generation="new").attach()
    older = await worker(router, "denoiser", generation="old", protocol=1).attach()
    reader = await worker(router, "denoiser", generation="old").attach()
    await told(reader)
    await nothing_told(stranger)
    await nothing_told(older)


async def test_what_was_measured_is_listed_and_watched(router: Router) -> None:
    encoder = await worker(router, "encoder").attach()
    denoiser = await worker(router, "denoiser").attach()
    await told(denoiser)
    watch = router.registry.WatchPeers(registry_pb2.WatchPeersRequest(), timeout=DEADLINE)
    await watch.read()
    await denoiser.report(probed=peer_pb2.Probed(stage=ENCODE, pod_name=encoder.pod_name, bytes_per_second=2e9))
    async with asyncio.timeout(DEADLINE):
        while not any(peer.probed for peer in (await watch.read()).peers):
            pass
    assert await probed(router, denoiser.pod_name) == [(ENCODE, encoder.pod_name, 2e9, "")]


async def test_what_worked_is_not_asked_for_again_and_what_failed_is(router: Router) -> None:
    encoder = await worker(router, "encoder").attach()
    found = {"pod_name": encoder.pod_name, "stage": ENCODE}
    settled = await worker(router, "denoiser", probed=[peer_pb2.Probed(**found, bytes_per_second=2e9)]).attach()
    failing = await worker(router, "denoiser", probed=[peer_pb2.Probed(**found, error="no way")]).attach()
    assert await told(failing) == (ENCODE, encoder.pod_name, encoder.incarnation)
    await nothing_told(settled)
    # As after a start of the router: what they know is listed at once.
    assert await probed(router, settled.pod_name) == [(ENCODE, encoder.pod_name, 2e9, "")]
    assert await probed(router, failing.pod_name) == [(ENCODE, encoder.pod_name, 0.0, "no way")]


@pytest.mark.parametrize("how", ["drained", "cut"])
async def test_another_maker_takes_the_place_of_one_that_goes_and_without_any_nothing_is_said_of_it(
    router: Router, how: str
) -> None:
    first = await worker(router, "encoder").attach()
    denoiser = await worker(router, "denoiser").attach()
    await told(denoiser)
    second = await worker(router, "encoder").attach()
    await denoiser.report(probed=peer_pb2.Probed(stage=ENCODE, pod_name=first.pod_name, error="it hung up"))
    await eventually(lambda: _fails(router, denoiser), DEADLINE, "that it fails is known")
    for maker, expected in ((first, second.incarnation), (second, "")):
        await (maker.report(drained=peer_pb2.Drained()) if how == "drained" else maker.cut())
        assert (await told(denoiser))[2] == expected
        assert await probed(router, denoiser.pod_name) == []


async def test_a_failure_with_a_peer_that_is_gone_is_forgotten_by_a_router_that_never_knew_it(router: Router) -> None:
    failed = peer_pb2.Probed(stage=ENCODE, pod_name="encoder-7", error="no way")
    denoiser = await worker(router, "denoiser", probed=[failed]).attach()
    assert await told(denoiser) == (ENCODE, "", "")
    assert await probed(router, denoiser.pod_name) == []


async def _fails(router: Router, reader: ScriptedWorker) -> bool:
    return any(error for *_, error in await probed(router, reader.pod_name))


@pytest.mark.parametrize(
    ("report", "listed"),
    [
        ({"stage": ENCODE, "bytes_per_second": float("nan")}, [(ENCODE, "", 0.0, "")]),
        ({"stage": ENCODE, "bytes_per_second": -1.0}, [(ENCODE, "", 0.0, "")]),
        ({"stage": ENCODE, "error": "x" * 5000}, [(ENCODE, "", 0.0, "x" * 2000)]),
        ({"stage": DENOISE, "bytes_per_second": 1.0}, []),
        ({"stage": 77, "bytes_per_second": 1.0}, []),
    ],
)
async def test_what_cannot_be_is_not_listed(router: Router, report: dict[str, Any], listed: list[Any]) -> None:
    denoiser = await worker(router, "denoiser").attach()
    await denoiser.report(probed=peer_pb2.Probed(**report))
    # What follows on the same stream is taken up after it.
    await denoiser.report(heartbeat=peer_pb2.Heartbeat(slots_used=3))
    await eventually(lambda: _heard(router, denoiser, 3), DEADLINE, "the heartbeat is known")
    assert await probed(router, denoiser.pod_name) == listed


async def _heard(router: Router, one: ScriptedWorker, slots: int) -> bool:
    answer = await router.registry.ListPeers(registry_pb2.ListPeersRequest(), timeout=DEADLINE)
    return any(peer.slots_used == slots for peer in answer.peers if peer.pod_name == one.pod_name)
