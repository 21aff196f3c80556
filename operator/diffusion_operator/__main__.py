"""`python -m diffusion_operator`."""

from __future__ import annotations

from diffusion_operator.app import main
from diffusion_operator.settings import Settings

main(Settings.read())
