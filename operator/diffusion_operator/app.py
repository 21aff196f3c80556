"""The operator process: who starts what, in which order, and how it ends.

Order: health is served first; definitions are checked; a replica waits until it leads; everything is listed once; only
then do workers begin, since a reconcile that has not seen all children would make them anew. When asked to stop, no new
reconcile begins, those that run finish, and the Lease is handed on. A task that dies takes the process with it: an
operator that looks alive and watches nothing is the worst kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import structlog
import uvloop

from diffusion_operator import health as probes
from diffusion_operator.api import GROUP
from diffusion_operator.cluster.client import ApiError, Cluster, Unreachable, load_configuration
from diffusion_operator.cluster.definitions import DefinitionsOutdated, check_definitions
from diffusion_operator.cluster.keys import Key
from diffusion_operator.cluster.kinds import CHILDREN, CONTROLLER_REVISION, EVENT, MODEL_CACHE, POD, POD_MONITOR, Kind
from diffusion_operator.cluster.recorder import Recorder
from diffusion_operator.cluster.reflector import Reflector
from diffusion_operator.cluster.store import Store
from diffusion_operator.cluster.watching import Watching
from diffusion_operator.leader import Leader, LeaseLost
from diffusion_operator.metrics import Metrics
from diffusion_operator.reconcile import modelcaches
from diffusion_operator.reconcile.apply import Applier, Unfinished
from diffusion_operator.reconcile.modelcaches import ModelCaches
from diffusion_operator.reconcile.nodes import RdmaResources
from diffusion_operator.reconcile.publish import Publisher
from diffusion_operator.reconcile.queue import Queue
from diffusion_operator.reconcile.reconciler import Reconciler
from diffusion_operator.reconcile.registry import Registries
from diffusion_operator.reconcile.scalers import Scalers
from diffusion_operator.reconcile.updates import Updates
from diffusion_operator.render import names
from diffusion_operator.settings import Settings
from diffusion_operator.update import revision
from diffusionpipeline.process.logs import configure
from diffusionpipeline.words import EXIT_DEFINITIONS, EXIT_FAILED, EXIT_LEASE_LOST

RECONCILE_SECONDS: Final = 60.0
GRACE_SECONDS: Final = 10.0
GC_THRESHOLDS: Final = (50_000, 25, 50)
START_PAUSE_SECONDS: Final = 2.0
FIRST_RESYNC_SECONDS: Final = 30.0
# A resync comes to all pipelines, but not to all at once.
SPREAD_SECONDS: Final = 30.0

CHILDREN_SELECTOR: Final = f"app.kubernetes.io/managed-by=diffusion-operator,{names.PIPELINE_LABEL}"
PODS_SELECTOR: Final = f"{GROUP}/pipeline"
# Why a StatefulSet's pods could not be made is told in Events only.
REFUSALS_SELECTOR: Final = "involvedObject.kind=StatefulSet,reason=FailedCreate"

log = structlog.get_logger()


class Operator:
    """One process's share of the work. Use `run`, once."""

    def __init__(self, settings: Settings, cluster: Cluster, metrics: Metrics) -> None:
        self._settings = settings
        self._cluster = cluster
        self._metrics = metrics
        self._stopping = asyncio.Event()
        self._waits_for = "the API server"
        self._synced = False
        self.queue = Queue(observer=metrics)
        self.store = Store(self.queue.add)
        self._cache_queue = Queue()
        self._caches = ModelCaches(
            cluster,
            self._cache_queue,
            images=settings.images,
            platform=settings.platform,
            changed=self._caches_changed,
        )
        instance = f"{settings.pod_name}_{uuid.uuid4().hex[:8]}"
        self._instance = instance
        self._recorder = Recorder(cluster, instance)
        self._registries = Registries(self.queue.add)
        self._watching = Watching(cluster, self.store, settings.scopes, heard=metrics.heard)
        self._reconciler = Reconciler(
            store=self.store,
            applier=Applier(cluster, self.store, self._recorder, metrics.reverted),
            scalers=Scalers(cluster, self.store),
            registries=self._registries,
            caches=self._caches,
            nodes=RdmaResources(cluster),
            publisher=Publisher(cluster, self.store, self._recorder),
            updates=Updates(
                cluster,
                self.store,
                images=settings.images,
                platform=settings.platform,
                version=version("diffusion-operator"),
                at_once=settings.max_pipelines_rolling,
                wake=self.queue.add,
            ),
            platform=settings.platform,
            router_address=settings.router_address,
            namespace=settings.namespace,
        )
        self._reflectors = [
            self._reflector(kind, scope) for kind in (*CHILDREN, POD, EVENT) for scope in settings.scopes
        ]
        self._reflectors += [
            Reflector(
                cluster,
                kind,
                scope,
                self._caches,
                label_selector="" if kind is MODEL_CACHE else names.CACHE_LABEL,
                heard=metrics.heard,
                restarted=metrics.restarted,
            )
            for kind in modelcaches.WATCHED
            for scope in settings.scopes
        ]
        self.health = probes.Health(
            alive=[self._streams_turn, self._queue_moves, self._watching.problem], ready=[self._is_synced]
        )
        metrics.collect_from(self.queue, self._reconciler.reports)

    async def run(self) -> None:
        """Until it is asked to stop. Raises DefinitionsOutdated, and whatever a task died of."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        settings = self._settings
        async with probes.serve(self.health, self._metrics, host=settings.http_host, port=settings.http_port) as port:
            log.info("operator_starting", instance=self._instance, http_port=port, scopes=settings.scopes)
            work = asyncio.create_task(self._work())
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not self._synced:
                # Nothing was begun that should be finished.
                work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        log.info("operator_stopped")

    async def _work(self) -> None:
        await self._until_answered(partial(check_definitions, self._cluster))
        if not self._settings.leader_elect:
            self._metrics.leading(True)
            await self._lead()
            return
        leader = Leader(
            self._cluster,
            namespace=self._settings.own_namespace(),
            name=self._settings.lease_name,
            identity=self._instance,
            lease_seconds=self._settings.lease_seconds,
            became=self._metrics.leading,
        )
        self._waits_for = ""
        await leader.acquire()
        self._waits_for = "the first list"
        holding = asyncio.create_task(_hold(leader))
        try:
            await self._lead()
        finally:
            holding.cancel()
        await leader.release()

    async def _lead(self) -> None:
        """Returns when asked to stop and done with what ran."""
        await self._until_answered(self._watching.resync)
        tasks = [asyncio.create_task(reflector.run(), name=str(reflector.kind)) for reflector in self._reflectors]
        tasks += [
            asyncio.create_task(self._registries.run(), name="registries"),
            asyncio.create_task(self._recorder.run(), name="events"),
        ]
        workers: list[asyncio.Task[None]] = []
        try:
            await _first(tasks, asyncio.gather(*(reflector.synced.wait() for reflector in self._reflectors)))
            log.info("operator_synced", pipelines=len(self.store.pipelines()))
            self._synced = True
            workers = [asyncio.create_task(self._reconcile_ever()) for _ in range(self._settings.concurrency)]
            workers.append(asyncio.create_task(self._reconcile_caches_ever()))
            tasks.append(asyncio.create_task(self._resync_ever(), name="resync"))
            # kopf takes the signals over, and returns when one comes.
            await _first([*tasks, *workers], self._watching.run(self._stopping))
            self._stopping.set()
            await self._finish(workers)
        finally:
            for task in (*tasks, *workers):
                task.cancel()

    async def _finish(self, workers: list[asyncio.Task[None]]) -> None:
        """Let the reconciles that run come to their end."""
        busy = asyncio.create_task(asyncio.wait(workers))
        deadline = time.monotonic() + GRACE_SECONDS
        while (self.queue.working or self._cache_queue.working) and time.monotonic() < deadline:
            await asyncio.wait({busy}, timeout=0.05)
        busy.cancel()

    async def _reconcile_ever(self) -> None:
        while not self._stopping.is_set():
            key = await self.queue.get()
            try:
                self._metrics.reconciled(await self._turn(self.queue, key, "pipeline", self._reconciler.reconcile))
            finally:
                self.queue.done(key)

    async def _reconcile_caches_ever(self) -> None:
        while not self._stopping.is_set():
            key = await self._cache_queue.get()
            try:
                await self._turn(self._cache_queue, key, "modelcache", self._caches.reconcile)
            finally:
                self._cache_queue.done(key)

    async def _turn(
        self, queue: Queue, key: Key, kind: str, reconcile: Callable[[Key], Awaitable[float | None]]
    ) -> str:
        """One reconcile, and when the next one is due. How it ended, as controller-runtime's metric calls it."""
        try:
            async with asyncio.timeout(RECONCILE_SECONDS):
                again = await reconcile(key)
        except Unfinished as unfinished:
            log.info("reconcile_unfinished", **{kind: str(key)}, why=str(unfinished))
            queue.retry(key)
            if unfinished.again is not None:
                queue.add_after(key, unfinished.again)
        except (ApiError, Unreachable, TimeoutError) as error:
            log.warning("reconcile_failed", **{kind: str(key)}, failures=queue.failures(key), error=str(error))
            queue.retry(key, at_least=getattr(error, "retry_after", None) or 0.0)
        except Exception:
            # A fault of ours with one of them must not keep the others from being served.
            log.exception("reconcile_raised", **{kind: str(key)})
            queue.retry(key)
        else:
            queue.succeeded(key)
            if again is None:
                return "success"
            queue.add_after(key, again)
            return "requeue_after"
        return "error"

    def _caches_changed(self, namespace: str) -> None:
        for key in self.store.pipelines():
            if key.namespace == namespace:
                self.queue.add(key)

    async def _resync_ever(self) -> None:
        # The first one soon: between the list at the start and kopf's own something may have been deleted.
        pause = min(FIRST_RESYNC_SECONDS, self._settings.resync_seconds)
        while True:
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))
            pause = self._settings.resync_seconds
            try:
                await self._watching.resync()
            except (ApiError, Unreachable) as error:
                log.warning("resync_failed", error=str(error))
                continue
            keys = self.store.pipelines()
            for key in keys:
                self._reconciler.recheck(key)
                self.queue.add_after(key, random.uniform(0.0, min(SPREAD_SECONDS, self._settings.resync_seconds / 2)))

    async def _until_answered(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """An API server that is not up yet, or busy, is waited for."""
        while True:
            try:
                await attempt()
            except (ApiError, Unreachable) as error:
                log.warning("waiting_for_the_api_server", error=str(error))
                self._waits_for = f"the API server: {error}"
            else:
                return
            await asyncio.sleep(START_PAUSE_SECONDS)

    def _reflector(self, kind: Kind, scope: str | None) -> Reflector:
        # StatefulSets have revisions too, with all the labels of their pods.
        labels = {POD: PODS_SELECTOR, EVENT: "", CONTROLLER_REVISION: revision.LABEL}.get(kind, CHILDREN_SELECTOR)
        return Reflector(
            self._cluster,
            kind,
            scope,
            self.store,
            label_selector=labels,
            field_selector=REFUSALS_SELECTOR if kind is EVENT else "",
            optional=kind is POD_MONITOR,
            # The API server keeps no cache of events, which is where bookmarks come from.
            bookmarks=kind is not EVENT,
            heard=self._metrics.heard,
            restarted=self._metrics.restarted,
        )

    def _is_synced(self) -> str:
        return f"waiting for {self._waits_for}" if not self._synced and self._waits_for else ""

    def _streams_turn(self) -> str:
        if not self._synced:
            return ""
        now = time.monotonic()
        stuck = {str(one.kind) for one in self._reflectors if now - one.turned > probes.STUCK_SECONDS}
        return f"the watch of {', '.join(sorted(stuck))} is stuck" if stuck else ""

    def _queue_moves(self) -> str:
        worst = max(self.queue.longest_working, self.queue.longest_waiting)
        return f"a pipeline has waited for {worst:.0f} s" if worst > probes.STALLED_SECONDS else ""


async def _hold(leader: Leader) -> None:
    try:
        await leader.hold()
    except LeaseLost as lost:
        log.error("lease_lost", error=str(lost))
        # At once: another may lead already, and every request from here could be one too many.
        os._exit(EXIT_LEASE_LOST)


async def _first(tasks: Sequence[asyncio.Task[Any]], wanted: Awaitable[Any]) -> None:
    """Wait for `wanted`; should one of the tasks, which never end, end before, raise what it died of."""
    waiting = asyncio.ensure_future(wanted)
    try:
        await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                await task
                raise RuntimeError(f"the task {task.get_name()} ended")
        await waiting
    finally:
        waiting.cancel()


async def _run(settings: Settings) -> None:
    configuration = await load_configuration(settings.kubeconfig)
    host = urlsplit(configuration.host).netloc
    metrics = Metrics(concurrency=settings.concurrency, host=host, lease=settings.lease_name)
    async with Cluster(configuration, metrics.answered) as cluster:
        await Operator(settings, cluster, metrics).run()


def main(settings: Settings) -> NoReturn:
    """Run the operator until it is told to stop; ends the process."""
    configure(settings.log_format, settings.log_level)
    # Next to nothing here is cyclic, and looking for it at Python's own pace takes a quarter of the time of a resync.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    status = 0
    try:
        uvloop.run(_run(settings))
    except DefinitionsOutdated as error:
        log.error("definitions_outdated", error=str(error))
        status = EXIT_DEFINITIONS
    except (OSError, ValueError) as error:
        log.error("operator_failed", error=str(error))
        status = EXIT_FAILED
    except Exception:
        log.exception("operator_failed")
        status = EXIT_FAILED
    raise SystemExit(status)
