"""A worker's download and nothing else of it, as a process: `one_worker.py ROLE`."""

from __future__ import annotations

import sys

from diffusion_worker.model import resolve_model
from diffusionpipeline.words import Role

if __name__ == "__main__":
    path = resolve_model("Hub", "maker/sd3", "", stages=frozenset({Role(sys.argv[1]).stage}))
    sys.stdout.write(f"{path}\n")
