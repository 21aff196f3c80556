"""`/v1/models`: what the registered workers serve, and what requests may name beside it.

Adapters are models of their own there; ControlNets, IP-Adapters and schedulers are listed by the model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from fastapi import APIRouter
from starlette.responses import Response

from diffusion_router.api.documents import errors
from diffusion_router.api.errors import not_found
from diffusion_router.api.objects import AdapterObject, ModelList, ModelObject
from diffusion_router.api.responses import respond
from diffusion_router.api.submission import Api
from diffusion_router.peers.registry import Registry
from diffusionpipeline.v1 import peer_pb2


def model_routes(api: Api) -> APIRouter:
    routes = APIRouter(tags=["models"])
    # OpenAI's clients require it; a model folder has no such date, so it is since when this router serves it.
    created = int(time.time())

    def served() -> list[ModelObject | AdapterObject]:
        """Models first, so that one is found before an adapter of its name."""
        models = [_object(api.registry, model, created) for model in api.registry.models()]
        adapters = [
            AdapterObject(id=name, created=created, parent=model.id, output=model.makes)
            for name, model in sorted(api.registry.served_adapters().items())
        ]
        return [*models, *adapters]

    @routes.get(
        "/v1/models", operation_id="list_models", summary="Served models", responses={200: {"model": ModelList}}
    )
    async def list_models() -> Response:
        return respond(ModelList(data=served()))

    @routes.get(
        "/v1/models/{model_id:path}",
        operation_id="get_model",
        summary="A served model, whose id may have slashes, or an adapter",
        responses={200: {"model": ModelObject | AdapterObject}, **errors(404)},
    )
    async def get(model_id: str) -> Response:
        for model in served():
            if model.id == model_id:
                return respond(model)
        raise not_found("Model", model_id)

    return routes


def _object(registry: Registry, model: peer_pb2.ModelIdentity, created: int) -> ModelObject:
    def of_it(offered: Mapping[str, peer_pb2.ModelIdentity] | None) -> list[str]:
        return sorted(name for name, its in (offered or {}).items() if its.id == model.id)

    return ModelObject(
        id=model.id,
        created=created,
        revision=model.revision,
        digest=model.digest,
        output=model.makes,
        schedulers=sorted(registry.schedulers() or ()),
        control_nets=of_it(registry.control_nets()),
        ip_adapters=of_it(registry.ip_adapters()),
    )
