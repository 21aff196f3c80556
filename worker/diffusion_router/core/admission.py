"""Whether jobs are accepted: the queue is bounded, and who could not end before the deadline is told so (I14)."""

from __future__ import annotations

from collections.abc import Sequence

from diffusion_router.core.estimates import Prediction
from diffusion_router.core.events import R
from diffusion_router.core.machine import Core


class Refused(Exception):
    """The request is not accepted just now. `retry_after`: predicted seconds until it would be."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Refused):
    """No more jobs can wait."""


class TooLate(Refused):
    """The jobs would end after their deadline. `predicted`: seconds until the last of them would have ended."""

    def __init__(self, predicted: float, timeout: float) -> None:
        super().__init__(
            f"This is predicted to take {predicted:.1f} s, and its deadline is in {timeout:g} s: give it more time "
            "(timeout_seconds), send it later, or set accept_late",
            predicted - timeout,
        )
        self.predicted = predicted


def admit(
    core: Core[R],
    shapes: Sequence[str],
    *,
    entering: int,
    timeout: float,
    accept_late: bool,
    max_queued: float,
    now: float,
) -> Prediction:
    """Whether jobs of these shapes are let in, and what the last of them is predicted to go through. entering: jobs
    that are let in, but not with the core yet. timeout: seconds from now to their deadline. max_queued: jobs that may
    wait. now: on the core's clock.

    Raises QueueFull where too many would wait, and TooLate where the last would end after its deadline.
    """
    waiting = core.waiting() + entering
    if waiting + len(shapes) > max_queued:
        wait = core.predict(now).wait
        # The queue goes on at the pace of whatever it waits for.
        seconds = max(1.0, wait * min(1.0, (waiting + len(shapes) - max_queued) / max(1, waiting)))
        raise QueueFull(f"The queue is full. A place is expected to be free in {seconds:.0f} s", seconds)
    predicted = core.predict(now, max(set(shapes), key=shapes.count), len(shapes) + entering)
    if predicted.known and predicted.end > timeout and not accept_late:
        raise TooLate(predicted.end, timeout)
    return predicted
