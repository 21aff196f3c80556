"""`python -m diffusion_worker`."""

from __future__ import annotations

from diffusion_worker.settings import read_settings

if __name__ == "__main__":
    settings = read_settings()
    # Only now: torch takes seconds to import, a wrong flag should not.
    from diffusion_worker.app import main

    main(settings)
