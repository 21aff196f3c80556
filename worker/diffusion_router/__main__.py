"""`python -m diffusion_router`."""

from __future__ import annotations

from diffusion_router.app import main
from diffusion_router.settings import Settings

main(Settings.read())
