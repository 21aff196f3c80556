"""From a request to jobs: body, rules, model, input files, admission. The same for every kind of request."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog
from starlette.requests import Request

from diffusion_router.api.body import Body, BodyReader
from diffusion_router.api.errors import ApiError, not_found
from diffusion_router.api.fields import InvalidField
from diffusion_router.api.kinds import PICTURED, VIDEO_FORMAT, Kind
from diffusion_router.api.limits import Limits
from diffusion_router.api.schedulers import check_scheduler
from diffusion_router.api.validation import Request as GenerationRequest
from diffusion_router.api.validation import RequestReader
from diffusion_router.peers.registry import Registry
from diffusion_router.service import JobService
from diffusion_router.store import StoreError
from diffusionpipeline.v1 import job_pb2, peer_pb2, stage_pb2
from diffusionpipeline.words import CONTROLS, IP_ADAPTERS, MAX_ADAPTERS

_MAX_KEY_CHARS: Final = 255
# Of a message.
_MAX_NAMES: Final = 20

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Submitted:
    """Jobs that are written down. keyed: under an idempotency key, so that the client can ask for them again."""

    jobs: list[job_pb2.Job]
    request: GenerationRequest
    keyed: bool


@dataclass(frozen=True, slots=True)
class Api:
    """What every handler of the public API works with."""

    service: JobService
    registry: Registry
    limits: Limits
    reader: RequestReader
    bodies: BodyReader
    _background: set[asyncio.Task[Any]] = field(default_factory=set)

    async def submit(self, request: Request, kind: Kind) -> Submitted:
        """Raises ApiError, InvalidField, QueueFull, IdempotencyConflict, StoreUnavailable."""
        key = _idempotency_key(request)
        async with self.bodies.read(request, kind) as body:
            return await self._submit(body, kind, key)

    async def _submit(self, body: Body, kind: Kind, key: str | None) -> Submitted:
        generation = settle_adapters(self.registry, self.reader.read(kind, body.values))
        check_scheduler(self.registry, generation)
        settle_pictured(self.registry, generation.parameters, [file.argument for file in body.files])
        model = settle_output(self.registry, generation, kind)
        kept: list[str] = []
        try:
            for file in body.files:
                kept.append(await self.service.put_input(file.data))
                generation.parameters.inputs.add(name=file.argument, key=kept[-1], media_type=file.media_type)
            jobs = await self.service.submit(generation.jobs(), generation.terms, model=model, idempotency_key=key)
        except BaseException:
            self._discard(kept)
            raise
        # A repeated request finds its first jobs, and those read the files that came with it then.
        self._discard(set(kept) - {file.key for job in jobs for file in job.parameters.inputs})
        return Submitted(jobs, generation, key is not None)

    async def find(self, job_id: str) -> job_pb2.Job | None:
        """None for what is no job's id, too."""
        if len(job_id) > 64 or not (job_id.isascii() and job_id.isprintable()):
            return None
        return await self.service.find(job_id)

    async def job(self, job_id: str) -> job_pb2.Job:
        """Raises ApiError 404."""
        job = await self.find(job_id)
        if job is None:
            raise not_found("Job", job_id)
        return job

    def spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Let `work` go on by itself, whatever becomes of the request."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _discard(self, keys: Collection[str]) -> None:
        if keys:
            self.spawn(self._delete_inputs(keys))

    async def _delete_inputs(self, keys: Collection[str]) -> None:
        for key in keys:
            try:
                await self.service.artifacts.delete(key)
            except StoreError as error:
                log.warning("unused_input_not_removed", key=key, error=str(error))


def settle_adapters(registry: Registry, generation: GenerationRequest) -> GenerationRequest:
    """The request with the adapter that its `model` names, if it does, among its adapters.

    Raises InvalidField for one that no denoiser offers. While there is none, each may yet be offered.
    """
    offered, named = registry.adapters(), generation.parameters.adapters
    model = generation.model
    if model in registry.served_adapters() and all(model != served.id for served in registry.served_models()):
        if all(adapter.name != model for adapter in named):
            if len(named) == MAX_ADAPTERS:
                text = (
                    f"Field 'model' names an adapter beside {MAX_ADAPTERS} others; at most {MAX_ADAPTERS} are allowed"
                )
                raise InvalidField("model", text)
            named.insert(0, stage_pb2.Adapter(name=model))
        generation = replace(generation, model=None)
    for index, adapter in enumerate(named):
        if offered is not None and adapter.name not in offered:
            raise InvalidField(
                f"adapters[{index}].name", _not_offered("adapter", adapter.name, offered, "spec.model.adapters")
            )
    return generation


def settle_pictured(registry: Registry, parameters: stage_pb2.JobParameters, files: Sequence[str]) -> None:
    """Raises InvalidField for a ControlNet or IP-Adapter that no denoiser offers, and for one without a picture, or the
    other way. `files`: what those of the request are for."""
    by_field = {CONTROLS: registry.control_nets(), IP_ADAPTERS: registry.ip_adapters()}
    for one in PICTURED:
        offered, named = by_field[one.field], getattr(parameters, one.field)
        for index, item in enumerate(named):
            if offered is not None and item.name not in offered:
                raise InvalidField(f"{one.field}[{index}].name", _not_offered(one.kind, item.name, offered, one.listed))
        one.check_pictures(len(named), files.count(one.field))


def _not_offered(what: str, name: str, offered: Collection[str], listed: str) -> str:
    """`what`: it is, with a small letter where it has one. `listed`: the resource's field."""
    said = f"{what[0].upper()}{what[1:]} {name!r}"
    if not offered:
        return f"{said}: this pipeline has no {what}s; leave it out, or add it to {listed}"
    names = ", ".join(sorted(offered)[:_MAX_NAMES])
    if len(offered) > _MAX_NAMES:
        names += f" and {len(offered) - _MAX_NAMES} more (GET /v1/models has them all)"
    return f"{said} is not offered here; there are {names}. Name one of these, or add it to {listed}"


def settle_output(registry: Registry, generation: GenerationRequest, kind: Kind) -> str:
    """Settle what comes out, by the kind of request, by what it asks for, or by what the served model makes.

    Returns the model's id, or "" while it is not known. Raises ApiError 404 for a model that is not served, 400 for one
    of another output, 503 if that can't be known yet.
    """
    parameters = generation.parameters
    asked = kind.output or _asked_output(parameters)
    model = _served_model(registry, generation.model, asked)
    makes = asked or (model.makes if model else "")
    if not parameters.output_format:
        parameters.output_format = VIDEO_FORMAT if makes == "video" else "png"
    for name in ("num_frames", "fps"):
        if makes != "video" and getattr(parameters, name):
            raise InvalidField(name, f"Field {name!r} is for videos; this is a request for an image")
    if (parameters.output_format == VIDEO_FORMAT) != (makes == "video"):
        raise InvalidField("output_format", f"Field 'output_format': this request makes no {parameters.output_format}")
    return model.id if model else registry.model_id


def _asked_output(parameters: stage_pb2.JobParameters) -> str | None:
    if parameters.output_format:
        return "video" if parameters.output_format == VIDEO_FORMAT else "image"
    return "video" if parameters.HasField("num_frames") or parameters.HasField("fps") else None


def _served_model(registry: Registry, name: str | None, output: str | None) -> peer_pb2.ModelIdentity | None:
    """None while no worker was there yet and nothing depends on its model."""
    models = registry.served_models()
    if not models:
        if name in (None, registry.model_id or None) and output is not None:
            return None
        text = "No worker is registered yet, so which model is served is not known. Try again soon"
        raise ApiError(503, text, code="no_workers", headers={"Retry-After": "2"})
    chosen = next((model for model in models if name in (None, model.id)), None)
    if chosen is None:
        names = ", ".join(sorted({model.id for model in models}))
        raise ApiError(404, f"Model {name!r} is not served here; {names} is", code="model_not_found", param="model")
    if output is not None and chosen.makes and chosen.makes != output:
        path = "/v1/videos" if chosen.makes == "video" else "/v1/images/generations"
        text = f"Model {chosen.id!r} makes {chosen.makes}s, not {output}s: use {path}"
        raise ApiError(400, text, code="wrong_output", param="model")
    return chosen


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= _MAX_KEY_CHARS and key.isascii() and key.isprintable()):
        text = f"Idempotency-Key must be 1 to {_MAX_KEY_CHARS} printable ASCII characters"
        raise InvalidField("Idempotency-Key", text)
    return key
