"""Turns into another program that the kernel ends together with its parent.

    python -I -S child.py PARENT_PID PROGRAM [ARGUMENT ...]

`dpipe` may be killed where it can clean nothing up; its processes must not outlive it. The process id stays the same.
Run as a file, so that it imports nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    parent, program, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        # The parent may have ended before the kernel was told.
        if os.getppid() != int(parent):
            sys.exit(1)
    os.execvp(program, [program, *arguments])


if __name__ == "__main__":
    main()
