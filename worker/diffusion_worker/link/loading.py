"""Tells the router how far the download of the model is, so that whoever looks at the pipeline sees it.

A worker registers once it can work. Until then nothing depends on what it says, so a router that does not listen, or is
not there yet, is told again later and no error is made of it.
"""

from __future__ import annotations

import asyncio
from typing import Final

import grpc
import structlog

from diffusion_worker.downloading import Downloading
from diffusion_worker.settings import Settings
from diffusionpipeline.process.channels import ASKING_CHANNEL
from diffusionpipeline.v1 import registry_pb2, registry_pb2_grpc, stage_pb2
from diffusionpipeline.words import number

TELL_SECONDS: Final = 5.0
CALL_SECONDS: Final = 2.0

log = structlog.get_logger()


async def tell_loading(settings: Settings, downloading: Downloading) -> None:
    """Until cancelled, or the router turns out to be of a version that does not take it."""
    async with grpc.aio.insecure_channel(settings.router, options=ASKING_CHANNEL) as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)
        while True:
            await asyncio.sleep(TELL_SECONDS)
            done, size = downloading.bytes
            if done >= size:
                continue
            loading = registry_pb2.Loading(
                pod_name=settings.pod_name,
                roles=[number(stage_pb2.Role, role) for role in settings.roles],
                generation=settings.generation,
                bytes=done,
                size=size,
            )
            try:
                await stub.TellLoading(registry_pb2.TellLoadingRequest(loading=loading), timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return
                log.debug("loading_not_told", code=error.code().name)
