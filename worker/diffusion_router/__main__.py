"""`python -m diffusion_router`."""

from diffusion_router.app import main

main()
