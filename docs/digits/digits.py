"""What the bundled model learns from: coloured handwritten digits, and the words for them."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F  # noqa: N812  the name that everyone knows
from sklearn.datasets import load_digits

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLORS = {
    "white": (1.0, 1.0, 1.0),
    "red": (0.95, 0.1, 0.1),
    "green": (0.1, 0.8, 0.2),
    "blue": (0.2, 0.35, 1.0),
    "yellow": (1.0, 0.9, 0.1),
    "purple": (0.7, 0.2, 0.9),
    "orange": (1.0, 0.55, 0.05),
    "cyan": (0.1, 0.85, 0.9),
}
GROUNDS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}
COLOR_NAMES, GROUND_NAMES = tuple(COLORS), tuple(GROUNDS)
PHRASES = (
    "a handwritten {color}{number}",
    "a {color}{number}",
    "the digit {color}{number}",
    "a handwritten {color}digit {number}",
    "{color}{number}",
    "the number {color}{number}",
)

SIZE = 64


class Digits:
    """1,797 bitmaps of 8x8, drawn afresh each time: bent a little, enlarged to 64x64, sharpened and coloured."""

    def __init__(self, generator: torch.Generator) -> None:
        bitmaps = load_digits()
        images = torch.tensor(bitmaps.images, dtype=torch.float32)[:, None] / 16.0
        # A border of two, so that a shifted digit does not touch the edge.
        self.images = F.pad(images, (2, 2, 2, 2))
        self.digits = torch.tensor(bitmaps.target)
        self.colors = torch.tensor(list(COLORS.values()))
        self.grounds = torch.tensor(list(GROUNDS.values()))
        self.generator = generator

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures (size, 3, 64, 64) in -1..1, and (size, 3) integers: digit, colour, ground."""
        chosen = torch.randint(len(self.images), (size,), generator=self.generator)
        color = torch.randint(len(COLORS), (size,), generator=self.generator)
        # A quarter is white on black: what a prompt without colours means.
        plain = torch.rand(size, generator=self.generator) < 0.25
        ground = torch.randint(len(GROUNDS), (size,), generator=self.generator)
        color[plain] = 0
        ground[plain | (color == 0)] = 0
        mask = self._masks(chosen)
        picture = self.grounds[ground][:, :, None, None] * (1 - mask) + self.colors[color][:, :, None, None] * mask
        return picture * 2 - 1, torch.stack([self.digits[chosen], color, ground], 1)

    def _masks(self, chosen: torch.Tensor) -> torch.Tensor:
        angle, scale = self._uniform(len(chosen), -0.07, 0.07), self._uniform(len(chosen), 0.68, 0.74)
        right, down = self._uniform(len(chosen), -0.04, 0.04), self._uniform(len(chosen), -0.03, 0.03)
        shear = self._uniform(len(chosen), -0.05, 0.05)
        cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
        affine = torch.stack([torch.stack([cos, shear * scale - sin, right], 1), torch.stack([sin, cos, down], 1)], 1)
        grid = F.affine_grid(affine, [len(chosen), 1, SIZE, SIZE], align_corners=False)
        blurry = F.grid_sample(self.images[chosen], grid, mode="bicubic", align_corners=False)
        return torch.sigmoid((blurry - 0.42) * 13.0)

    def _uniform(self, size: int, low: float, high: float) -> torch.Tensor:
        return torch.rand(size, generator=self.generator) * (high - low) + low


def prompt(digit: int, color: str, ground: str, chance: random.Random) -> str:
    """One wording of many. Colours may be left out only where they are the default, white on black."""
    number = WORDS[digit] if chance.random() < 0.65 else str(digit)
    phrase = chance.choice(PHRASES)
    said = f"{color} " if color != "white" or chance.random() < 0.4 else ""
    text = phrase.format(color=said, number=number)
    if ground != "black" or chance.random() < 0.3:
        text += chance.choice((" on a {} background", ", {} background", " on {}")).format(ground)
    return text[0].upper() + text[1:] if chance.random() < 0.15 else text
