"""`python -m diffusion_worker`."""

from __future__ import annotations

from diffusion_worker.settings import Settings

if __name__ == "__main__":
    settings = Settings.read()
    # Only now: torch takes seconds to import, a wrong flag should not.
    from diffusion_worker.app import main

    main(settings)
