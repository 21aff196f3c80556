"""What went wrong in a pipeline's own code, as the error that the request's sender or the model's owner can act on."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Sequence
from typing import Final

from diffusion_worker.model.types import InvalidRequest, ModelError
from diffusionpipeline.words import Stage

NAMED: Final = 3
"""How many of several names a message gives."""


def failure(stage: Stage, pipeline: str, error: Exception, *, absent: Sequence[str] = ()) -> ModelError:
    """The error to raise for what `pipeline` raised in `stage`. `absent`: input pictures that the request lacks.

    diffusers refuses a request's values by ValueError, in the checks at the start of `__call__`. A picture that its
    signature calls optional and its code can't do without shows as any error at all.
    """
    what = told(error)
    if isinstance(error, NameError):
        # diffusers leaves out imports of libraries that are not there.
        return InvalidRequest(f"{stage}: {pipeline} needs a library for this that is not installed: {what}")
    if stage is not Stage.ENCODE:
        return ModelError(f"{stage}: {pipeline}: {what}")
    checked = any(frame.name == "check_inputs" for frame in traceback.extract_tb(error.__traceback__))
    if absent and not (checked and isinstance(error, ValueError)):
        return InvalidRequest(f"{', '.join(absent)}: not in the request, and {pipeline} does not go without: {what}")
    return (InvalidRequest if isinstance(error, ValueError) else ModelError)(f"{stage}: {pipeline}: {what}")


def told(error: Exception) -> str:
    """The error's message in one line, with what the type alone would tell in words."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError | IndexError):
        return f"it looked for {text}, which is not there"
    return text or "it gives no reason"


def first_of(names: Collection[str]) -> str:
    """The first names in their order, and how many more there are."""
    first = sorted(names)[:NAMED]
    return ", ".join(first) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
