"""`python -m diffusion_worker`."""

from diffusion_worker.app import main

main()
