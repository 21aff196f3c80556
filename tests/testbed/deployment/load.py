"""Clients of a pipeline that go on asking while pods, nodes and links come and go.

What they hold the service to is I1 and I6: a request that was accepted (202) ends completed, with the very bytes that
the monolith makes of it. What was not accepted may be asked again, with the same Idempotency-Key, so that a router that
accepted and died before it could answer makes no second job of it.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from testbed import pipelines
from testbed.controlplane.client import Refused
from testbed.deployment.pipeline import Deployed
from testbed.waiting import NotYet, until

ENDED = ("completed", "failed", "cancelled")
# What a router answers that cannot take a request now; every other refusal is a fault of the test or of the service.
NOT_NOW = (429, 502, 503, 504)
# Each look takes processor time, of which pods have little: looks are many, jobs take seconds.
LONGEST_PAUSE = 0.2


@dataclass(frozen=True)
class Request:
    prompt: str
    seed: int
    steps: int = 12

    def __str__(self) -> str:
        return f"{self.prompt} #{self.seed} in {self.steps} steps"

    @property
    def body(self) -> dict[str, object]:
        return {"prompt": self.prompt, "seed": self.seed, "num_inference_steps": self.steps}


def requests(steps: int = 12) -> list[Request]:
    return [Request(prompt, seed, steps) for prompt, seed in pipelines.Load.REQUESTS]


@dataclass(frozen=True)
class Done:
    """A completed job. Times are `time.monotonic()`."""

    job: str
    request: Request
    accepted_at: float
    ended_at: float
    pods: Mapping[str, str]
    """Which pod did each stage at last."""
    attempts: int
    """The highest of any stage: 1 if no task was given out twice, be it lost or handed back before it was begun."""
    again: int
    """Denoising steps that were made more than once, as far as the router knows: one that was restarted has not heard
    of those before a checkpoint that was gone on from."""
    tries: tuple[str, ...]
    """Each try of a stage: which, by whom, with how many steps; for those who read why steps were made again."""
    picture: bytes

    @property
    def seconds(self) -> float:
        return self.ended_at - self.accepted_at


def draw(pipeline: Deployed, request: Request, *, seconds: float = 120.0) -> bytes:
    """The picture of one request, which is asked for until it is accepted."""
    load = Load(pipeline, {}, clients=0, seconds=seconds)
    with httpx.Client(timeout=10, trust_env=False) as http:
        return load.ask(http, request).picture


def expected(monolith: Deployed, wanted: list[Request]) -> dict[Request, bytes]:
    """What each request must give, as the colocated pipeline makes it."""
    return {request: draw(monolith, request) for request in wanted}


@dataclass
class Load:
    """`with load.running(): …` asks until the body ends, and then waits for what was accepted."""

    pipeline: Deployed
    expected: Mapping[Request, bytes]
    clients: int
    seconds: float = 180.0
    """A job's deadline, from its acceptance to its picture, and how long a request may go unaccepted."""
    judges: bool = True
    """Whether each picture is compared as it comes; if not, whoever reads `done` does it."""
    done: list[Done] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _url: str = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._client, args=(number, stop), name=f"client-{number}")
            for number in range(self.clients)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            stop.set()
            for thread in threads:
                thread.join(2 * self.seconds + 10)
                if thread.is_alive():
                    self.problems.append(f"{thread.name} does not end")
        self.check()

    def check(self) -> None:
        """Every accepted job has completed, with the right bytes."""
        assert not self.problems, "\n".join([*self.problems[:10], self.pipeline.describe()])

    @property
    def again(self) -> dict[str, str]:
        """Jobs of which steps were made more than once: how many, and each try of a stage."""
        return {job.job: f"{job.again} of {', '.join(job.tries)}" for job in self.done if job.again}

    def done_by(self, stage: str, since: float = 0.0) -> Counter[str]:
        """How many of the jobs that ended since then each pod did this stage of."""
        return Counter(job.pods[stage] for job in self.done if job.ended_at >= since)

    def ask(self, http: httpx.Client, request: Request) -> Done:
        """One job from submission to picture. Raises AssertionError, which says what went wrong with it."""
        job_id = self._submit(http, request)
        accepted_at = time.monotonic()
        job = self._wait(http, job_id, request)
        assert job["status"] == "completed", f"{request}: job {job_id} {job['status']}: {job['error']}"
        stages = {stage["stage"]: stage for stage in job["stages"]}
        pods = {name: str(stage["pod_name"]) for name, stage in stages.items()}
        attempts = max(int(stage["attempt"]) for stage in stages.values())
        made = sum(int(stage["steps"]) for stage in job["stages"] if stage["stage"] == "denoise")
        again = max(0, made - int(job["steps"]))
        tries = tuple(f"{one['stage']} {one['attempt']} {one['pod_name']} {one['steps']}" for one in job["stages"])
        ended_at = time.monotonic()
        picture = self._fetch(http, urlsplit(job["artifacts"][0]["url"]).path, request)
        return Done(job_id, request, accepted_at, ended_at, pods, attempts, again, tries, picture)

    def _client(self, number: int, stop: threading.Event) -> None:
        wanted = list(self.expected)
        turn = number
        with httpx.Client(timeout=10, trust_env=False) as http:
            while not stop.is_set():
                request = wanted[turn % len(wanted)]
                turn += 1
                try:
                    done = self.ask(http, request)
                    right = not self.judges or done.picture == self.expected[request]
                    assert right, f"{request}: job {done.job} made another picture"
                except Exception as error:
                    self.problems.append(f"{type(error).__name__}: {error}")
                    return
                self.done.append(done)

    def _submit(self, http: httpx.Client, request: Request) -> str:
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        answer = self._insist(http, "POST", "/v1/jobs", f"{request} is accepted", json=request.body, headers=headers)
        assert answer.status_code == 202, f"{request}: {answer.status_code} {answer.text[:300]}"
        return str(answer.json()["data"][0]["id"])

    def _wait(self, http: httpx.Client, job_id: str, request: Request) -> dict:  # type: ignore[type-arg]
        def ended() -> dict:  # type: ignore[type-arg]
            answer = self._insist(http, "GET", f"/v1/jobs/{job_id}", f"{request}: job {job_id} is told of")
            assert answer.status_code == 200, f"{request}: accepted job {job_id}: {answer.status_code} {answer.text}"
            job = dict(answer.json())
            if job["status"] not in ENDED:
                raise NotYet(str(job))
            return job

        return until(ended, self.seconds, f"{request}: job {job_id} has ended", longest_pause=LONGEST_PAUSE)

    def _fetch(self, http: httpx.Client, path: str, request: Request) -> bytes:
        answer = self._insist(http, "GET", path, f"{request}: {path} is there")
        assert answer.status_code == 200, f"{request}: {path}: {answer.status_code} {answer.text[:300]}"
        return answer.content

    def _insist(self, http: httpx.Client, method: str, path: str, what: str, **rest: object) -> httpx.Response:
        """The router's answer, asked for again while there is no router or it cannot take the request now."""

        def answer() -> httpx.Response:
            try:
                self._url = self._url or self.pipeline.url()
                found = http.request(method, self._url + path, **rest)  # type: ignore[arg-type]
            except (httpx.TransportError, Refused) as error:
                # The router's next pod has another address.
                self._url = ""
                raise NotYet(f"{type(error).__name__}: {error}") from None
            if found.status_code in NOT_NOW:
                raise NotYet(f"{found.status_code} {found.text[:200]}")
            return found

        return until(answer, self.seconds, what, longest_pause=LONGEST_PAUSE)
