"""`python -m diffusion_worker.hold`: stays until it is told to end, with nothing loaded.

What a pod of a model cache does once all is pulled: that it runs is what its readiness says.
"""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    # As process 1 of a container it would not get them with their default action; what is blocked is kept for it.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    sys.stdout.write("all is pulled: this stays to say so\n")
    sys.stdout.flush()
    signal.sigwait(ends)
