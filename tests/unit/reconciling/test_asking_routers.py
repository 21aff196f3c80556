"""Routers are asked apart from reconciles: often while something is to come, seldom otherwise, and never for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from diffusion_operator.api import Role
from diffusion_operator.cluster.keys import Key
from diffusion_operator.reconcile import registry
from diffusion_operator.reconcile.registry import Registries, ask
from diffusion_operator.status.observed import PeerSeen
from diffusionpipeline.v1 import peer_pb2, registry_pb2, registry_pb2_grpc, stage_pb2
from diffusionpipeline.words import portion
from testbed.waiting import eventually

KEY = Key("ns", "digits")


class Router(registry_pb2_grpc.RegistryServiceServicer):
    def __init__(self) -> None:
        self.asked = 0
        self.peers: list[registry_pb2.Peer] = []
        self.loading: list[registry_pb2.Loading] = []

    def ListPeers(self, request: Any, context: Any) -> registry_pb2.ListPeersResponse:  # noqa: N802
        self.asked += 1
        return registry_pb2.ListPeersResponse(peers=self.peers, loading=self.loading)


@pytest.fixture
async def router() -> AsyncIterator[tuple[Router, str]]:
    servicer = Router()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


def peer(name: str, mode: str) -> registry_pb2.Peer:
    return registry_pb2.Peer(
        pod_name=name,
        roles=[stage_pb2.ROLE_DENOISER],
        generation="g1",
        pool=peer_pb2.Pool(mode=mode),
        state=registry_pb2.PEER_STATE_READY,
        seconds_since_report=0.5,
    )


async def test_peers_are_given_in_order_and_without_what_moves_by_itself(router: tuple[Router, str]) -> None:
    servicer, address = router
    servicer.peers = [peer("b", "mooncake-tcp"), peer("a", "mooncake-rdma")]
    found = await ask(address)
    seen = [
        PeerSeen(pod=pod, roles=(Role.DENOISER,), generation="g1", mode=mode, state="ready")
        for pod, mode in (("a", "mooncake-rdma"), ("b", "mooncake-tcp"))
    ]
    assert (found.reachable, list(found.peers)) == (True, seen)


async def test_what_a_worker_measured_at_its_start_is_seen_and_absent_where_it_measured_nothing(
    router: tuple[Router, str],
) -> None:
    servicer, address = router
    measured = peer("a", "tcp")
    measured.pool.proof.bytes_per_second, measured.pool.pulls = 1.9e9, "mooncake-tcp"
    servicer.peers = [measured, peer("b", "tcp")]
    found = await ask(address)
    assert [(one.bytes_per_second, one.pulls) for one in found.peers] == [(1.9e9, "mooncake-tcp"), (None, "")]


async def test_a_download_is_seen_in_whole_percents(router: tuple[Router, str]) -> None:
    servicer, address = router
    size = 8_375_186_227
    seen = set()
    for done in (3_435_973_836, 3_435_973_837, 3_500_000_000):
        servicer.loading = [
            registry_pb2.Loading(pod_name="a", roles=[stage_pb2.ROLE_DENOISER], generation="g1", bytes=done, size=size)
        ]
        (one,) = (await ask(address)).loading
        assert (one.pod, one.roles, one.generation, one.size) == ("a", (Role.DENOISER,), "g1", size)
        seen.add(portion(one.bytes, one.size))
    assert seen == {"41 %, 3.2 of 7.8 GiB"}


async def test_a_router_that_is_not_there_is_an_answer_too() -> None:
    found = await ask("127.0.0.1:1")
    assert (found.reachable, found.error, found.peers) == (False, "UNAVAILABLE", ())


async def test_a_pipeline_is_told_of_once_for_each_new_answer(
    router: tuple[Router, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "EAGER_SECONDS", 0.01)
    servicer, address = router
    news: list[Key] = []
    registries = Registries(news.append)
    running = asyncio.create_task(registries.run())
    assert registries.peers(KEY) is None
    registries.follow(KEY, address, settled=False, expected=0)
    await eventually(lambda: servicer.asked >= 3, 10, "it was asked three times")
    assert news == [KEY]
    servicer.peers = [peer("a", "mooncake-tcp")]
    await eventually(lambda: len(news) == 2, 10, "it is told of")
    found = registries.peers(KEY)
    assert found is not None
    assert [one.pod for one in found.peers] == ["a"]
    running.cancel()


async def test_an_answer_that_stays_the_same_is_asked_for_ever_less_often(
    router: tuple[Router, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "CALM_SECONDS", 1000.0)
    _, address = router
    registries = Registries(lambda key: None)
    registries.follow(KEY, address, settled=False, expected=0)
    pauses = []
    for _ in range(4):
        await registries._ask(KEY)
        pauses.append(registries._routers[KEY].pause)
    assert pauses == [5.0, 10.0, 20.0, 40.0]
    registries.follow(KEY, address, settled=True, expected=0)
    registries.follow(KEY, address, settled=False, expected=0)
    assert registries._routers[KEY].pause == 5.0


async def test_a_worker_that_became_ready_is_asked_for_soon_however_long_it_took(router: tuple[Router, str]) -> None:
    _, address = router
    registries = Registries(lambda key: None)
    registries.follow(KEY, address, settled=False, expected=0)
    for _ in range(4):
        await registries._ask(KEY)
    registries.follow(KEY, address, settled=False, expected=0)
    assert registries._routers[KEY].pause == 40.0
    registries.follow(KEY, address, settled=False, expected=1)
    assert registries._routers[KEY].pause == 5.0


async def test_a_router_that_is_forgotten_is_asked_no_more(router: tuple[Router, str]) -> None:
    servicer, address = router
    news: list[Key] = []
    registries = Registries(news.append)
    registries.follow(KEY, address, settled=False, expected=0)
    registries.forget(KEY)
    await registries._ask(KEY)
    assert (servicer.asked, news, registries.peers(KEY)) == (0, [], None)
