"""How people's model folders differ from what `save_pretrained` writes, each as a change of one that it wrote."""

from __future__ import annotations

from typing import Final

from . import configs, files, folders, tensors
from .changes import SAME, SERVED, Quirk

__all__ = ["QUIRKS", "SAME", "SERVED", "Quirk"]

QUIRKS: Final = [*folders.QUIRKS, *configs.QUIRKS, *files.QUIRKS, *tensors.QUIRKS]
