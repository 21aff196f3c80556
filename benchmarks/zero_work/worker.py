"""The product's worker with a model that computes nothing and hands on a payload of a given size.

usage: worker.py BYTES [the worker's own flags]
"""

from __future__ import annotations

import asyncio
import sys

import numpy as np

from diffusion_worker.app import serve
from diffusion_worker.model.driving import Driver
from diffusion_worker.model.types import Media, Parameters, Values
from diffusion_worker.settings import Settings
from diffusionpipeline.words import Stage


class ZeroWork:
    stages = frozenset(Stage)
    output = "image"
    workflows = ()

    def __init__(self, size: int) -> None:
        self._values: Values = {"latents": np.zeros(size, np.uint8)}
        self._media = [Media(bytes(size), "image/png", 64, 64, 1)]

    def encode(self, parameters: Parameters) -> Values:
        return self._values

    def denoise(self, values: Values, parameters: Parameters, driver: Driver) -> Values:
        return values

    def decode(self, values: Values) -> list[Media]:
        return self._media


if __name__ == "__main__":
    size = int(sys.argv.pop(1))
    sys.exit(asyncio.run(serve(Settings.read(), model=ZeroWork(size))))
