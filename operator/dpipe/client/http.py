"""The router's HTTP interface, as the commands use it.

A job, once accepted, outlives the router's process. So reading is tried again for a while when the router is away;
submitting is tried once more only under the same Idempotency-Key, which finds the first jobs.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Self

import httpx

Job = dict[str, Any]
Files = Sequence[tuple[str, tuple[str, bytes]]]
"""By form field, in order: name and contents."""

ENDED: Final = ("completed", "failed", "cancelled")
_PATIENCE_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.5
_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
# On a job's events the router is never silent for as long as this.
_EVENT_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)


class RouterError(Exception):
    """The router refused, failed or is not there. The message is for the user."""


class RouterClient:
    """Use as an async context manager."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.AsyncClient(base_url=self.url, timeout=_TIMEOUT, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._http.aclose()

    async def submit(self, request: Mapping[str, object], files: Files) -> list[Job]:
        """The accepted jobs, one for each picture. Raises RouterError."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        if files:
            form = {name: value if isinstance(value, str) else json.dumps(value) for name, value in request.items()}
            answer = await self._request("POST", "/v1/jobs", data=form, files=list(files), headers=headers)
        else:
            answer = await self._request("POST", "/v1/jobs", json=dict(request), headers=headers)
        jobs: list[Job] = answer.json()["data"]
        return jobs

    async def follow(self, job: Job) -> AsyncIterator[Job]:
        """The job after each change, until it has ended: steps as they are made, the rest at the end.

        Raises RouterError.
        """
        given_up = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                async for event, data in self._events(job["id"]):
                    given_up = time.monotonic() + _PATIENCE_SECONDS
                    job = _changed(job, event, data)
                    yield job
                    if job["status"] in ENDED:
                        return
            except httpx.TransportError as error:
                if time.monotonic() > given_up:
                    raise RouterError(self._away(error)) from None
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _events(self, job_id: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Server-sent events: their names and data."""
        async with self._http.stream("GET", f"/v1/jobs/{job_id}/events", timeout=_EVENT_TIMEOUT) as answer:
            if answer.is_error:
                await answer.aread()
                raise _refusal(answer)
            event = ""
            async for line in answer.aiter_lines():
                if line.startswith("event:"):
                    event = line.removeprefix("event:").strip()
                elif line.startswith("data:"):
                    yield event, json.loads(line.removeprefix("data:"))

    async def jobs(self, status: str | None, limit: int) -> list[Job]:
        """Newest first. Raises RouterError."""
        parameters: dict[str, str | int] = {"limit": limit} | ({"status": status} if status else {})
        found: list[Job] = (await self._request("GET", "/v1/jobs", params=parameters)).json()["data"]
        return found

    async def models(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self._request("GET", "/v1/models")).json()["data"]
        return found

    async def cancel(self, job_id: str) -> None:
        """Returns once it has stopped, at its next step. Raises RouterError."""
        await self._request("DELETE", f"/v1/jobs/{job_id}")

    async def download(self, artifact: Mapping[str, Any]) -> bytes:
        # By key, not by the URL in the job: that names the host as whoever asked first saw it.
        return (await self._request("GET", f"/v1/files/{artifact['key']}")).content

    async def _request(self, method: str, path: str, **rest: Any) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, **rest)
        except httpx.TransportError as error:
            raise RouterError(self._away(error)) from None
        if answer.is_error:
            raise _refusal(answer)
        return answer

    def _away(self, error: Exception) -> str:
        return f"no answer from a router at {self.url} ({type(error).__name__}): is the pipeline up?"


def _changed(job: Job, event: str, data: dict[str, Any]) -> Job:
    match event:
        case "end":
            return data
        case "stage":
            return {**job, "status": "in_progress", "stage": data["stage"]}
        case "step":
            return {**job, "step": data["step"], "steps": data["steps"]}
        case _:
            return job


def _refusal(answer: httpx.Response) -> RouterError:
    try:
        error = answer.json()["error"]
        message = str(error["message"])
    except (ValueError, KeyError, TypeError):
        message = answer.text[:500]
    return RouterError(f"the router refused ({answer.status_code}): {message}")
