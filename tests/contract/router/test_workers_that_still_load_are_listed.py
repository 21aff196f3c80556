"""A worker that downloads its share of the model is listed beside the peers, until it is one or says no more."""

from __future__ import annotations

import grpc
import pytest

from contract.router.conftest import Router
from contract.router.scripted_worker import attach_all
from diffusion_router.peers.loading import FORGET_SECONDS, MAX_WORKERS, Loadings
from diffusionpipeline.v1 import registry_pb2, stage_pb2

DENOISER = [stage_pb2.ROLE_DENOISER]


def loading(pod: str = "digits-denoiser-0", done: int = 3, size: int = 8, **fields: object) -> registry_pb2.Loading:
    values = {"pod_name": pod, "roles": DENOISER, "generation": "g", "bytes": done, "size": size, **fields}
    return registry_pb2.Loading(**values)  # type: ignore[arg-type]


async def tell(router: Router, one: registry_pb2.Loading) -> None:
    await router.registry.TellLoading(registry_pb2.TellLoadingRequest(loading=one))


async def listed(router: Router) -> list[registry_pb2.Loading]:
    return list((await router.registry.ListPeers(registry_pb2.ListPeersRequest())).loading)


async def test_what_a_worker_said_last_is_listed_until_it_is_registered(router: Router) -> None:
    assert await listed(router) == []
    await tell(router, loading(done=3))
    await tell(router, loading("digits-decoder-0", roles=[stage_pb2.ROLE_DECODER]))
    await tell(router, loading(done=4))
    assert [(one.pod_name, one.bytes) for one in await listed(router)] == [
        ("digits-decoder-0", 3),
        ("digits-denoiser-0", 4),
    ]
    await attach_all(router.target, "encoder")
    name = (await router.registry.ListPeers(registry_pb2.ListPeersRequest())).peers[0].pod_name
    await tell(router, loading(name))
    assert name not in {one.pod_name for one in await listed(router)}


@pytest.mark.parametrize(
    "one",
    [
        loading(pod=""),
        loading(pod="x" * 254),
        loading(generation="x" * 254),
        loading(roles=[]),
        loading(roles=[0]),
        loading(roles=[77]),
        loading(done=9),
    ],
)
async def test_what_no_worker_says_is_refused(router: Router, one: registry_pb2.Loading) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await tell(router, one)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert await listed(router) == []


def test_who_says_no_more_is_forgotten_and_a_crowd_pushes_out_who_was_silent_longest() -> None:
    now = 0.0
    loadings = Loadings(lambda: now)
    for number in range(MAX_WORKERS):
        loadings.note(loading(f"pod-{number}"))
    loadings.note(loading("pod-0"))
    loadings.note(loading("another"))
    names = {one.pod_name for one in loadings.current()}
    assert (len(names), "pod-0" in names, "pod-1" in names, "another" in names) == (MAX_WORKERS, True, False, True)
    now = FORGET_SECONDS / 2
    loadings.note(loading("pod-0"))
    now = FORGET_SECONDS + 1
    assert [one.pod_name for one in loadings.current()] == ["pod-0"]
