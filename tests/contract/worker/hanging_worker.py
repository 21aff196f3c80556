"""The worker's program, but for one thing that hangs: `python hanging_worker.py WHAT FLAG …`.

stage    an encode waits in native code for what never comes
lock     so it does, and keeps the interpreter's lock: no other thread of the process runs Python any more
loop     the event loop does, when a task comes
leaving  an encode does, and then also whatever the worker does about it
"""

from __future__ import annotations

import asyncio
import ctypes
import sys

from scripted_model import ScriptedModel

from diffusion_worker import app, serving
from diffusion_worker.link.worker import Worker
from diffusion_worker.loading import adopt
from diffusion_worker.settings import Settings
from diffusion_worker.work import watchdog
from diffusionpipeline.words import Stage


def hang(*_: object) -> None:
    ctypes.CDLL(None).pause()


def hang_with_the_lock(*_: object) -> None:
    ctypes.PyDLL(None).pause()


async def never_leave(*_: object, **__: object) -> None:
    await asyncio.Event().wait()


def main() -> None:
    what = sys.argv.pop(1)
    model = ScriptedModel(frozenset({Stage.ENCODE}))
    serving.load = lambda settings, *_: adopt(model, settings)
    match what:
        case "stage" | "leaving":
            model.before_stage = hang
        case "lock":
            model.before_stage = hang_with_the_lock
        case "loop":
            Worker.obey = hang
    if what == "leaving":
        serving.break_off = never_leave
        watchdog.LEAVE_SECONDS = 1.0
    app.main(Settings.read())


if __name__ == "__main__":
    main()
