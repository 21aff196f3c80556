"""What a worker says, as far as it can be true: impossible numbers are passed over, keys of other jobs refused."""

from __future__ import annotations

import math
from typing import Final

from diffusionpipeline.v1 import peer_pb2, stage_pb2

# Longer than any stage, and than any deadline.
_MAX_SECONDS: Final = 30 * 86_400.0
_MAX_FORWARDS: Final = 64
# One for each stage, of some version.
_MAX_PROBED: Final = 8
_MAX_ERROR: Final = 2000
_MAX_SCHEDULERS: Final = 64
MAX_ADAPTERS: Final = 4096
"""Of one worker. What it offers beyond is passed over."""


class MalformedReport(ValueError):
    """A worker said something that no version of the protocol has."""


def check_result(done: peer_pb2.StageDone) -> None:
    """Raises MalformedReport where files are named that are not the job's own, or something is parked that has no
    steps."""
    for artifact in done.artifacts:
        if not artifact.key.startswith(f"jobs/{done.job_id}/"):
            raise MalformedReport(f"StageDone of {done.task_id}: {artifact.key[:200]!r} is no file of its job")
    if done.HasField("parked") and done.stage != stage_pb2.STAGE_DENOISE:
        raise MalformedReport(f"StageDone of {done.task_id}: only a denoising is parked, and this is no denoise task")


def make_plausible(report: peer_pb2.PeerReport) -> int:
    """Puts 0 for numbers that cannot be, and leaves out times of forwards that cannot be. How many there were."""
    match report.WhichOneof("report"):
        case "stage_done":
            return _plausible_timings(report.stage_done.timings)
        case "register":
            del report.register.probed[_MAX_PROBED:]
            del report.register.schedulers[_MAX_SCHEDULERS:]
            return (
                sum(_plausible_timings(done.timings) for done in report.register.outputs)
                + sum(map(_plausible_probed, report.register.probed))
                + _plausible_adapters(report.register.adapters)
                + _plausible_share(report.register)
            )
        case "probed":
            return _plausible_probed(report.probed)
        case "heartbeat":
            forwards = report.heartbeat.forwards
            kept = [forward for forward in forwards if _is_duration(forward.seconds)][:_MAX_FORWARDS]
            left_out = len(forwards) - len(kept)
            if left_out:
                del forwards[:]
                forwards.extend(kept)
            return left_out + _plausible_adapters(report.heartbeat.adapters)
    return 0


def _plausible_timings(timings: stage_pb2.StageTimings) -> int:
    wrong = [
        field.name
        for field, value in timings.ListFields()
        if field.name.endswith("_seconds") and not _is_duration(value)
    ]
    for name in wrong:
        timings.ClearField(name)  # type: ignore[arg-type]  # a name of its own
    return len(wrong)


def _plausible_adapters(adapters: peer_pb2.Adapters) -> int:
    wrong = 0
    for names in (adapters.offered, adapters.control_nets, adapters.ip_adapters):
        # To change an absent message makes it a present one.
        if too_many := max(0, len(names) - MAX_ADAPTERS):
            del names[MAX_ADAPTERS:]
            wrong += too_many
    for adapter in adapters.offered:
        if not _is_duration(adapter.load_seconds):
            adapter.ClearField("load_seconds")
            wrong += 1
    return wrong


def _plausible_probed(probed: peer_pb2.Probed) -> int:
    probed.error = probed.error[:_MAX_ERROR]
    if math.isfinite(probed.bytes_per_second) and probed.bytes_per_second >= 0:
        return 0
    probed.ClearField("bytes_per_second")
    return 1


def _plausible_share(register: peer_pb2.Register) -> int:
    if 0 <= register.cache_share <= 1:
        return 0
    register.ClearField("cache_share")
    return 1


def _is_duration(value: float) -> bool:
    return math.isfinite(value) and 0 <= value <= _MAX_SECONDS
