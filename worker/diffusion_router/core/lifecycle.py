"""What a job may go through: its states, and the table of moves that lead from one to the next.

A state says all four things that matter for what may follow: the job's status, its stage, whether a task of that stage
is under way, and whether the stage's input is known. `Book.move` is the only place that changes a job's state; it does
so by this table and raises where the table has no entry. `docs/job-lifecycle.md` is drawn from it.

Beside the ordinary way there is that of a restarted router: a worker that registers tells of tasks and outputs of the
router's earlier life, and the job goes on from there. Which output such a task reads is only known once the worker that
keeps it has registered too; until then the task is `ADOPTED`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from diffusion_router.core.events import JobStatus, Stage


class JobState(Enum):
    """Status, stage (None: where it ended), whether it has a task, whether it has its stage's input."""

    QUEUED = (JobStatus.QUEUED, Stage.ENCODE, False, False)
    TO_ENCODE = (JobStatus.IN_PROGRESS, Stage.ENCODE, False, False)
    ENCODING = (JobStatus.IN_PROGRESS, Stage.ENCODE, True, False)
    TO_DENOISE = (JobStatus.IN_PROGRESS, Stage.DENOISE, False, True)
    DENOISING = (JobStatus.IN_PROGRESS, Stage.DENOISE, True, True)
    DENOISING_ADOPTED = (JobStatus.IN_PROGRESS, Stage.DENOISE, True, False)
    TO_DECODE = (JobStatus.IN_PROGRESS, Stage.DECODE, False, True)
    DECODING = (JobStatus.IN_PROGRESS, Stage.DECODE, True, True)
    DECODING_ADOPTED = (JobStatus.IN_PROGRESS, Stage.DECODE, True, False)
    COMPLETED = (JobStatus.COMPLETED, None, False, False)
    FAILED = (JobStatus.FAILED, None, False, False)
    CANCELLED = (JobStatus.CANCELLED, None, False, False)

    def __init__(self, status: JobStatus, stage: Stage | None, has_task: bool, has_input: bool) -> None:
        self.status = status
        self.stage = stage
        self.has_task = has_task
        self.has_input = has_input


class Move(Enum):
    """What happens to a job, in words."""

    SENT = "a task of its stage is sent to a peer"
    ENCODED = "the encoder's output is there"
    DENOISED = "the denoiser's output is there"
    DECODED = "the decoder's result is there"
    PARKED = "its denoising was parked: the checkpoint is there"
    RETURNED = "its task ended without an output, or its peer is lost"
    INPUT_REPLACED = "another peer has a copy of what it reads, or that is gone and something else of that kind is left"
    STARTED_OVER = "what it reads, or was to read, is lost or of no use: everything is computed anew"
    ENCODE_HELD = "a worker that registers has an encode task of it"
    DENOISE_HELD = "a worker that registers has a denoise task of it"
    DECODE_HELD = "a worker that registers has a decode task of it"
    INPUT_FOUND = "a worker that registers keeps what the adopted task reads"
    FAILED = "it has no more tries, no more time, or can't be made"
    CANCELLED = "the client wants it no more"


_S, _M = JobState, Move
_ENDS: Final = {_M.FAILED: _S.FAILED, _M.CANCELLED: _S.CANCELLED}

TRANSITIONS: Final[Mapping[JobState, Mapping[Move, JobState]]] = {
    _S.QUEUED: {
        _M.SENT: _S.ENCODING,
        _M.ENCODED: _S.TO_DENOISE,
        _M.PARKED: _S.TO_DENOISE,
        _M.DENOISED: _S.TO_DECODE,
        _M.DECODED: _S.COMPLETED,
        _M.ENCODE_HELD: _S.ENCODING,
        _M.DENOISE_HELD: _S.DENOISING_ADOPTED,
        _M.DECODE_HELD: _S.DECODING_ADOPTED,
        **_ENDS,
    },
    _S.TO_ENCODE: {
        _M.SENT: _S.ENCODING,
        _M.ENCODED: _S.TO_DENOISE,
        _M.PARKED: _S.TO_DENOISE,
        _M.DENOISED: _S.TO_DECODE,
        _M.DECODED: _S.COMPLETED,
        _M.STARTED_OVER: _S.TO_ENCODE,
        _M.ENCODE_HELD: _S.ENCODING,
        _M.DENOISE_HELD: _S.DENOISING_ADOPTED,
        _M.DECODE_HELD: _S.DECODING_ADOPTED,
        **_ENDS,
    },
    _S.ENCODING: {
        _M.ENCODED: _S.TO_DENOISE,
        _M.PARKED: _S.TO_DENOISE,
        _M.DENOISED: _S.TO_DECODE,
        _M.DECODED: _S.COMPLETED,
        _M.RETURNED: _S.TO_ENCODE,
        _M.ENCODE_HELD: _S.ENCODING,
        _M.DENOISE_HELD: _S.DENOISING_ADOPTED,
        _M.DECODE_HELD: _S.DECODING_ADOPTED,
        **_ENDS,
    },
    _S.TO_DENOISE: {
        _M.SENT: _S.DENOISING,
        _M.DENOISED: _S.TO_DECODE,
        _M.DECODED: _S.COMPLETED,
        _M.PARKED: _S.TO_DENOISE,
        _M.INPUT_REPLACED: _S.TO_DENOISE,
        _M.STARTED_OVER: _S.TO_ENCODE,
        _M.DENOISE_HELD: _S.DENOISING,
        _M.DECODE_HELD: _S.DECODING_ADOPTED,
        **_ENDS,
    },
    _S.DENOISING: {
        _M.PARKED: _S.TO_DENOISE,
        _M.DENOISED: _S.TO_DECODE,
        _M.DECODED: _S.COMPLETED,
        _M.INPUT_REPLACED: _S.DENOISING,
        _M.RETURNED: _S.TO_DENOISE,
        _M.DENOISE_HELD: _S.DENOISING,
        _M.DECODE_HELD: _S.DECODING_ADOPTED,
        **_ENDS,
    },
    _S.DENOISING_ADOPTED: {
        _M.PARKED: _S.TO_DENOISE,
        _M.DENOISED: _S.TO_DECODE,
        _M.DECODED: _S.COMPLETED,
        _M.RETURNED: _S.TO_ENCODE,
        _M.DENOISE_HELD: _S.DENOISING_ADOPTED,
        _M.DECODE_HELD: _S.DECODING_ADOPTED,
        _M.INPUT_FOUND: _S.DENOISING,
        **_ENDS,
    },
    _S.TO_DECODE: {
        _M.SENT: _S.DECODING,
        _M.DECODED: _S.COMPLETED,
        _M.INPUT_REPLACED: _S.TO_DECODE,
        _M.STARTED_OVER: _S.TO_ENCODE,
        _M.DECODE_HELD: _S.DECODING,
        **_ENDS,
    },
    _S.DECODING: {
        _M.DECODED: _S.COMPLETED,
        _M.INPUT_REPLACED: _S.DECODING,
        _M.RETURNED: _S.TO_DECODE,
        _M.DECODE_HELD: _S.DECODING,
        **_ENDS,
    },
    _S.DECODING_ADOPTED: {
        _M.DECODED: _S.COMPLETED,
        _M.RETURNED: _S.TO_ENCODE,
        _M.DECODE_HELD: _S.DECODING_ADOPTED,
        _M.INPUT_FOUND: _S.DECODING,
        **_ENDS,
    },
    _S.COMPLETED: {},
    _S.FAILED: {},
    _S.CANCELLED: {},
}

# Of the output, or the held task, of a stage.
OUTPUT_OF: Final = {Stage.ENCODE: _M.ENCODED, Stage.DENOISE: _M.DENOISED, Stage.DECODE: _M.DECODED}
HELD: Final = {Stage.ENCODE: _M.ENCODE_HELD, Stage.DENOISE: _M.DENOISE_HELD, Stage.DECODE: _M.DECODE_HELD}


class ImpossibleMove(AssertionError):
    """The core's own fault: a move that the table has not."""


def after(state: JobState, move: Move) -> JobState:
    """Raises ImpossibleMove."""
    try:
        return TRANSITIONS[state][move]
    except KeyError:
        raise ImpossibleMove(f"{move.name} of a job that is {state.name}: not in lifecycle.TRANSITIONS") from None
