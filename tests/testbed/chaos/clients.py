"""Clients that keep what they were promised, and find every promise that was broken."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from testbed.pipelines import Load

STEPS: Final = 12
_ACCEPT_SECONDS: Final = 240.0
_END_SECONDS: Final = 420.0
_PAUSE: Final = 0.2
_ENDED: Final = ("completed", "failed", "cancelled")


@dataclass
class Promises:
    """What all clients were told."""

    expected: dict[str, bytes] = field(default_factory=dict)
    """Pictures by request, made before there were faults."""
    accepted: dict[str, str] = field(default_factory=dict)
    """Requests by their jobs' ids."""
    ends: dict[str, str] = field(default_factory=dict)
    asked_to_cancel: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    repeated: Counter[str] = field(default_factory=Counter)
    """Tries of stages beyond the first, by stage."""


class Client:
    """Asks for one picture after the other. Whatever a router that is away answers, it asks again."""

    def __init__(self, url: str, promises: Promises, seed: int) -> None:
        self._promises = promises
        self._random = random.Random(seed)
        self._http = httpx.AsyncClient(base_url=url, timeout=10)

    async def run(self, stop: asyncio.Event) -> None:
        async with self._http:
            while not stop.is_set():
                await self.ask()

    async def ask(self) -> None:
        promises = self._promises
        prompt, seed = self._random.choice(Load.REQUESTS)
        request = f"{prompt} #{seed}"
        begun = time.monotonic()
        job_id = await self._submit({"prompt": prompt, "seed": seed, "num_inference_steps": STEPS})
        if job_id is None:
            promises.broken.append(f"a request was not accepted within {_ACCEPT_SECONDS:g} s")
            return
        promises.accepted[job_id] = request
        if self._random.random() < 0.08:
            promises.asked_to_cancel.add(job_id)
            await self._call("DELETE", f"/v1/jobs/{job_id}")
        job = await self._end_of(job_id)
        if job is None:
            promises.broken.append(f"{job_id} did not end within {_END_SECONDS:g} s")
            return
        promises.waits.append(time.monotonic() - begun)
        await self._judge(job_id, request, job)
        if job["status"] == "completed" and self._random.random() < 0.1:
            answer = await self._call("DELETE", f"/v1/jobs/{job_id}")
            if answer is not None and answer.status_code == 200:
                promises.deleted.add(job_id)

    async def _submit(self, body: dict[str, Any]) -> str | None:
        key = {"Idempotency-Key": uuid.uuid4().hex}
        deadline = time.monotonic() + _ACCEPT_SECONDS
        while time.monotonic() < deadline:
            answer = await self._call("POST", "/v1/jobs", json=body, headers=key)
            if answer is not None and answer.status_code == 202:
                return str(answer.json()["ids"][0])
            if answer is not None and answer.status_code not in (429, 503, 504):
                self._promises.broken.append(f"a request was answered {answer.status_code}: {answer.text}")
                return None
            await asyncio.sleep(_PAUSE)
        return None

    async def _end_of(self, job_id: str) -> dict[str, Any] | None:
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline:
            answer = await self._call("GET", f"/v1/jobs/{job_id}")
            if answer is not None and answer.status_code == 404:
                self._promises.broken.append(f"{job_id} was accepted and is unknown now")
                return None
            if answer is not None and answer.status_code == 200 and answer.json()["status"] in _ENDED:
                return dict(answer.json())
            await asyncio.sleep(_PAUSE)
        return None

    async def _judge(self, job_id: str, request: str, job: dict[str, Any]) -> None:
        promises, status = self._promises, job["status"]
        promises.ends[job_id] = status
        promises.counts[status] += 1
        for stage in job.get("stages", ()):
            promises.repeated[stage["stage"]] += stage.get("attempt", 1) > 1
        if status == "completed":
            picture = await self._picture(job["artifacts"][0]["url"])
            if picture != promises.expected[request]:
                promises.broken.append(f"{job_id} is another picture than {request}")
        elif status == "cancelled":
            if job_id not in promises.asked_to_cancel:
                promises.broken.append(f"{job_id} was cancelled by nobody")
        else:
            kind = job["error"]["code"]
            promises.counts[f"failed: {kind}"] += 1
            # Two workers that were killed while they computed it: what it looks like when a job kills them.
            if kind != "poison":
                promises.broken.append(f"{job_id} failed: {job['error']}")

    async def _picture(self, url: str) -> bytes | None:
        deadline = time.monotonic() + _ACCEPT_SECONDS
        while time.monotonic() < deadline:
            answer = await self._call("GET", httpx.URL(url).path)
            if answer is not None and answer.status_code == 200:
                return answer.content
            await asyncio.sleep(_PAUSE)
        return None

    async def _call(self, method: str, path: str, **what: Any) -> httpx.Response | None:
        """None: there is no router just now."""
        try:
            return await self._http.request(method, path, **what)
        except httpx.HTTPError:
            self._promises.counts["calls that no router answered"] += 1
            return None

    async def check_again(self) -> None:
        """Whoever has ended has ended as was told."""
        promises = self._promises
        for job_id, status in promises.ends.items():
            answer = await self._call("GET", f"/v1/jobs/{job_id}")
            gone = answer is not None and answer.status_code == 404
            if gone and job_id in promises.deleted:
                continue
            if answer is None or gone or answer.json()["status"] != status:
                told = "nothing" if answer is None else answer.text[:200]
                promises.broken.append(f"{job_id} had ended {status}, and is told as {told}")
