"""Makes ModelCaches so: a DaemonSet for each role, and a status.

They are few, and nobody is served by them, so they are read anew at each turn rather than kept; what watches bring only
says which is to be looked at. Only what pipelines ask of a cache is kept: what it pulls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from diffusion_operator.api import InvalidResourceError, ModelCache, Pipeline, Platform, Role
from diffusion_operator.api.modelcache import cache_from_live
from diffusion_operator.cluster.client import ApiError, Cluster
from diffusion_operator.cluster.keys import Key, key_of
from diffusion_operator.cluster.kinds import DAEMON_SET, EVENT, MODEL_CACHE, POD, Kind, Object
from diffusion_operator.reconcile import marking
from diffusion_operator.reconcile.apply import NamespaceGone, Owner, Unfinished, refusal
from diffusion_operator.reconcile.queue import Queue
from diffusion_operator.render import names
from diffusion_operator.render.difference import differences
from diffusion_operator.render.images import Images
from diffusion_operator.render.modelcache import daemon_sets, path
from diffusion_operator.status import events, pods, reasons
from diffusion_operator.status.modelcache import Share, cache_status, share
from diffusion_operator.status.observed import Fault, PodProblem, Refusal

WATCHED: Final = (MODEL_CACHE, DAEMON_SET, POD)
# A node's pod tells of itself a dozen times while it comes up; a thousand nodes' are read together.
PODS_SECONDS: Final = 1.0
# What a watch does not bring, such as why pods are refused, is looked at again while it matters.
AGAIN_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 5.0

log = structlog.get_logger()


class ModelCaches:
    """Sink of the watches of `WATCHED`; `changed` is told of each namespace whose caches are others now."""

    def __init__(
        self, cluster: Cluster, queue: Queue, *, images: Images, platform: Platform, changed: Callable[[str], None]
    ) -> None:
        """`images` are the operator's own, in the platform's registry."""
        self._cluster = cluster
        self._queue = queue
        self._images = images
        self._platform = platform
        self._changed = changed
        self._known: dict[Key, tuple[str, ModelCache | None]] = {}
        """Of each cache its uid, and what it pulls; None: it can't be read."""
        self._written: dict[Key, float] = {}

    # What the watches bring

    def put(self, kind: Kind, item: Object) -> None:
        if kind is MODEL_CACHE:
            key = key_of(item)
            try:
                cache = cache_from_live(item)
            except InvalidResourceError:
                cache = None
            known = (item["metadata"]["uid"], cache)
            if self._known.get(key) != known:
                self._known[key] = known
                self._changed(key.namespace)
            self._queue.add(key)
        elif (owner := _cache_of(item)) is not None:
            if kind is POD:
                self._queue.add_after(owner, PODS_SECONDS)
            else:
                self._queue.add(owner)

    def remove(self, kind: Kind, item: Object) -> None:
        if kind is not MODEL_CACHE:
            self.put(kind, item)
            return
        key = key_of(item)
        if key in self._known and self._known[key][0] == item["metadata"]["uid"]:
            self._forget(key)

    def retain(self, kind: Kind, namespace: str | None, uids: set[str], version: str) -> None:
        for key, (uid, _) in list(self._known.items()):
            if namespace not in (None, key.namespace):
                continue
            if kind is MODEL_CACHE and uid not in uids:
                self._forget(key)
            else:
                # One of its children may be gone.
                self._queue.add(key)

    def _forget(self, key: Key) -> None:
        self._known.pop(key, None)
        self._written.pop(key, None)
        self._queue.forget(key)
        self._changed(key.namespace)

    # What pipelines ask

    def lacks(self, pipeline: Pipeline) -> str:
        """Why a pipeline's workers can't start from the ModelCache that it names, in words; empty: they can."""
        name = pipeline.model.cache.name
        if not name:
            return ""
        _, cache = self._known.get(Key(pipeline.namespace, name), ("", None))
        if cache is None:
            return f"there is no ModelCache {name} in namespace {pipeline.namespace}: make it, or mend modelCacheName"
        roles = tuple(role for _, together in pipeline.workers() for role in together)
        why = cache.lacks(pipeline.model, roles)
        return f"ModelCache {name}: {why}" if why else ""

    # Reconciling

    async def reconcile(self, key: Key) -> float | None:
        """Seconds after which to look again; None: when something happens.

        Raises Unfinished, ApiError or Unreachable: to be tried again after a pause.
        """
        try:
            live = await self._cluster.get(MODEL_CACHE, key.namespace, key.name)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        if "deletionTimestamp" in live["metadata"]:
            # The garbage collector takes its DaemonSets.
            return None
        try:
            cache = self._platform.beneath_cache(cache_from_live(live))
        except InvalidResourceError as error:
            fault = Fault(reason="InvalidSpec", message=str(error))
            return await self._publish(key, live, cache_status(live, "", {}, (fault,), datetime.now(UTC)))
        owner = Owner(key, live["metadata"]["uid"], MODEL_CACHE.kind)
        try:
            made, faults = await self._make_so(owner, cache)
        except NamespaceGone:
            return None
        shares = {role: await self._share(key, role, item) for role, item in made.items()}
        status = cache_status(live, path(cache), shares, faults, datetime.now(UTC))
        again = await self._publish(key, live, status)
        if faults:
            raise Unfinished("; ".join(fault.message for fault in faults), again)
        if again is None and any(one.ready < one.nodes for one in shares.values()):
            return AGAIN_SECONDS
        return again

    async def _make_so(self, owner: Owner, cache: ModelCache) -> tuple[dict[Role, Object], tuple[Fault, ...]]:
        """Its DaemonSets by role, and what could not be applied. Raises NamespaceGone, ApiError, Unreachable."""
        selector = f"{names.CACHE_LABEL}={cache.name},{names.MANAGED_BY_LABEL}={names.OPERATOR}"
        there = {item["metadata"]["name"]: item for item in await self._list(DAEMON_SET, owner.key, selector)}
        made: dict[Role, Object] = {}
        faults: list[Fault] = []
        for role, wanted in zip(cache.roles, daemon_sets(cache, self._images), strict=True):
            live = there.pop(wanted["metadata"]["name"], None)
            try:
                made[role] = await self._apply(owner, wanted, live)
            except ApiError as error:
                if error.transient:
                    raise
                faults.append(_fault(wanted["metadata"]["name"], error))
        for name, item in there.items():
            if _is_owned(item, owner.uid) and "deletionTimestamp" not in item["metadata"]:
                log.info("deleting", modelcache=str(owner.key), kind=DAEMON_SET.kind, name=name)
                await self._cluster.delete(DAEMON_SET, owner.key.namespace, name, item["metadata"]["uid"])
        return made, tuple(faults)

    async def _apply(self, owner: Owner, wanted: Object, live: Object | None) -> Object:
        """Raises ApiError: 409 if there is one of that name that is not this cache's."""
        marked = marking.marked(owner.adopt(wanted))
        if live is None or not _is_owned(live, owner.uid):
            try:
                return await self._cluster.apply(DAEMON_SET, marking.only_new(marked))
            except ApiError as error:
                if error.status != 409:
                    raise
                # Somebody else's; or ours, without the labels by which it is listed.
                live = await self._cluster.get(DAEMON_SET, owner.key.namespace, wanted["metadata"]["name"])
                if not _is_owned(live, owner.uid):
                    raise
        if marking.rendered_so(marked, live) and not list(differences(marked, live)):
            return live
        return await self._cluster.apply(DAEMON_SET, marked)

    async def _share(self, key: Key, role: Role, daemon_set: Object) -> Share:
        status = daemon_set.get("status", {})
        nodes = status.get("desiredNumberScheduled", 0)
        problems: tuple[PodProblem, ...] = ()
        refused: Refusal | None = None
        if status.get("numberReady", 0) < nodes:
            selector = ",".join(f"{name}={value}" for name, value in names.cache_selector(key.name, role).items())
            found = (pods.problem(item) for item in await self._list(POD, key, selector))
            problems = tuple(sorted((one for one in found if one is not None), key=lambda one: one.pod))
        if status.get("currentNumberScheduled", 0) < nodes:
            refused = await self._refusal(key, daemon_set["metadata"]["name"])
        return share(daemon_set, problems, refused)

    async def _refusal(self, key: Key, daemon_set: str) -> Refusal | None:
        """Why pods of it could not be made: the latest word."""
        fields = f"involvedObject.kind={DAEMON_SET.kind},involvedObject.name={daemon_set},reason=FailedCreate"
        told = [
            item
            async for page in self._cluster.pages(EVENT, key.namespace, field_selector=fields)
            for item in page.items
        ]
        latest = max(told, key=lambda item: item.get("lastTimestamp") or item.get("eventTime") or "", default=None)
        return None if latest is None else events.refusal(latest)

    async def _publish(self, key: Key, live: Object, status: dict[str, Any]) -> float | None:
        """Seconds until this status may be written; None: it is, or need not be."""
        before = live.get("status") or {}
        if status == before:
            return None
        since = time.monotonic() - self._written.get(key, float("-inf"))
        if _reason(status) == _reason(before) and since < WRITE_SECONDS:
            # How far it has got is told at a pace; what it waits for, at once.
            return WRITE_SECONDS - since
        uid = live["metadata"]["uid"]
        try:
            await self._cluster.apply_status(MODEL_CACHE, key.namespace, key.name, uid, status)
        except ApiError as error:
            if error.status not in {404, 409}:
                raise
            # Gone, or made anew under this name, of which the watch will tell.
            return None
        self._written[key] = time.monotonic()
        return None

    async def _list(self, kind: Kind, key: Key, labels: str) -> list[Object]:
        pages = self._cluster.pages(kind, key.namespace, label_selector=labels)
        return [item async for page in pages for item in page.items]


def _cache_of(item: Object) -> Key | None:
    metadata = item["metadata"]
    name = metadata.get("labels", {}).get(names.CACHE_LABEL)
    return Key(metadata["namespace"], name) if name else None


def _is_owned(item: Object, uid: str) -> bool:
    references: Iterable[Object] = item["metadata"].get("ownerReferences", ())
    return any(reference.get("controller") and reference["uid"] == uid for reference in references)


def _fault(name: str, error: ApiError) -> Fault:
    if error.status == 409:
        return Fault(
            reason="NameConflict",
            message=f"{DAEMON_SET} {name} exists and does not belong to this ModelCache: delete or rename it, or give "
            "the ModelCache another name",
        )
    return refusal(DAEMON_SET, name, error)


def _reason(status: Object) -> str:
    found = next((each for each in status.get("conditions", ()) if each["type"] == reasons.READY), None)
    return found["reason"] if found is not None else ""
