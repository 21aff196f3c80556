"""Tiny pipelines of many families, with random weights: real diffusers folders that need no network.

They are what shows that the cut by role follows a pipeline's structure and not a list of names. `ensure` makes a
checkpoint's folder (once a machine), `FAMILIES` says what can be asked of each.
"""

from __future__ import annotations

from testbed.zoo.cache import ensure, folder
from testbed.zoo.catalogue import FAMILIES
from testbed.zoo.family import Checkpoint, Family

__all__ = ["FAMILIES", "Checkpoint", "Family", "ensure", "folder"]
