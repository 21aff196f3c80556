"""The requests of a check: one for each use that a model has, with pictures where the use takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffusion_worker.model.types import RoleModel

TEXT: Final = "text"
STRENGTH: Final = 0.6
MASK: Final = "mask"
"""Part of the names of pictures that say where, and not what."""
VIDEO: Final = "video"
"""Part of the names of videos."""
FRAMES: Final = 9
"""4k + 1 and 8k + 1: what video families take."""


def cases_of(model: RoleModel, request: Mapping[str, Any], side: int) -> dict[str, dict[str, Any]]:
    """Requests by the use's name: with the pictures that the model needs, and with each that it may take beside.

    `request` holds what they have in common, `side` is the pictures' in pixels. What a family does not take it refuses.
    """
    uses: dict[str, dict[str, Any]] = {}
    for names in _pictures_of(model):
        case = dict(request)
        if names:
            # Of few steps too, a part is left to do.
            steps = request.get("num_inference_steps")
            case |= {"images": {name: [side, side] for name in names}, "strength": STRENGTH}
            case |= {"num_inference_steps": steps + 1} if steps else {}
        uses.setdefault(" and ".join(names) or TEXT, case)
        for several in sorted(model.several_inputs.intersection(names)):
            more = case | {"images": {**case["images"], several: [[side, side], [side, side]]}}
            uses.setdefault(" and ".join(f"several {name}" if name == several else name for name in names), more)
    return uses


def _pictures_of(model: RoleModel) -> Iterator[tuple[str, ...]]:
    """Names of the pictures of each use."""
    for workflow in model.workflows:
        yield tuple(sorted(workflow.images))
    for workflow in model.workflows:
        others = sorted(model.image_inputs - workflow.images)
        for name in others:
            yield tuple(sorted(workflow.images | {name}))
        if len(others) > 1:
            yield tuple(sorted(workflow.images.union(others)))


def pictures(sizes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """A picture of each name and size (width, height); several, of as many sizes; or the frames of a video."""
    return {name: _pictures(name, size) for name, size in sizes.items()}


def _pictures(name: str, size: Sequence[Any]) -> Any:
    from PIL import ImageChops

    several = not isinstance(size[0], int)
    one = (_mask if MASK in name else _picture)(*(size[0] if several else size))
    if VIDEO not in name and not several:
        return one
    # Each is moved on a little.
    return [ImageChops.offset(one, shift, 0) for shift in range(len(size) if several else FRAMES)]


def _picture(width: int, height: int) -> Image:
    """One with something in it: two gradients and a diagonal."""
    import numpy as np
    from PIL import Image

    down, across = np.meshgrid(np.linspace(0, 255, height), np.linspace(0, 255, width), indexing="ij")
    return Image.fromarray(np.stack([down, across, (down + across) / 2], axis=-1).astype(np.uint8))


def _mask(width: int, height: int) -> Image:
    """White in the middle: that is to be drawn anew."""
    import numpy as np
    from PIL import Image

    where = np.zeros((height, width), dtype=np.uint8)
    where[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = 255
    return Image.fromarray(where)
