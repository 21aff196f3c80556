"""How long a download is tried for: with pauses that grow and differ, until nothing more has come for too long.

Many pods that were refused at once would come back at once, so each pause is drawn. A download that gets on, however
slowly, is never given up.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import httpx2
import structlog
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # documented, but not exported

FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
BUSY_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""What a hub answers that may answer otherwise soon."""
RATE_LIMITED: Final = 429
PROGRAM: Final = "diffusion-operator"
"""Who asks, in the user agent of requests."""

log = structlog.get_logger()


class GaveUp(Exception):
    """Nothing came for as long as is waited for. The message is what went wrong last."""

    def __init__(self, why: str, status: int, asked_to_wait: float) -> None:
        super().__init__(why)
        self.status = status
        """That the hub answered; 0: it did not."""
        self.asked_to_wait = asked_to_wait
        """Seconds that it asked for; 0: it did not."""


class Patience:
    """Shared by all requests of a download. Thread-safe."""

    def __init__(
        self,
        seconds: float,
        *,
        paused: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`seconds` without anything new are borne. `paused` is told of each pause; the others are the machine's."""
        self._seconds = seconds
        self._paused = paused
        self._clock = clock
        self._sleep = sleep
        self._draw = draw
        self._lock = threading.Lock()
        self._since = clock()

    def got_on(self) -> None:
        """Something new has come."""
        with self._lock:
            self._since = self._clock()

    def pause(self, attempt: int, why: str, *, status: int = 0, asked_to_wait: float = 0.0) -> None:
        """Waits before attempt `attempt` + 1. Raises GaveUp if it could only be made too late."""
        bound = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(attempt, 16))
        seconds = asked_to_wait + self._draw(0.5 * bound, bound)
        with self._lock:
            left = self._since + self._seconds - self._clock()
        if seconds > left:
            raise GaveUp(why, status, asked_to_wait)
        log.warning("download_pauses", why=why, seconds=round(seconds, 1))
        self._paused()
        self._sleep(seconds)


class PatientClient(httpx2.Client):
    """Sends again what a hub is too busy for, or was not reached by.

    The hub's own library gives up a file, with all that it has of it, at the first refusal in its middle, and has no
    bound for how long it obeys a hub that asks to wait. So it gets to see neither.
    """

    def __init__(self, patience: Patience) -> None:
        super().__init__(follow_redirects=True, timeout=None)
        self._patience = patience

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        if not request.headers.get("User-Agent", "").startswith(PROGRAM):
            # The library's own questions (which program it runs in) are worth no wait.
            return super().send(request, **options)
        attempt = 0
        while True:
            try:
                response = super().send(request, **options)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                self._patience.pause(attempt, f"{request.url.host} can't be reached: {error}")
            else:
                if response.status_code not in BUSY_STATUSES:
                    return response
                response.close()
                self._patience.pause(
                    attempt,
                    f"{request.url.host} answers {response.status_code}",
                    status=response.status_code,
                    asked_to_wait=_asked_to_wait(response),
                )
            attempt += 1


def _asked_to_wait(response: httpx2.Response) -> float:
    """Seconds that the answer asks to wait for: Retry-After in seconds, or the hub's own RateLimit; 0: none."""
    said = response.headers.get("Retry-After", "").strip()
    if said.isdigit():
        return float(said)
    limit = parse_ratelimit_headers(response.headers)
    return float(limit.reset_in_seconds) if limit is not None and not limit.remaining else 0.0
