"""What a pipeline of diffusers makes: pictures or a video, told by what it returns and never by its name."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from diffusion_worker.model.families import FRAMES_AS_IMAGES
from diffusion_worker.model.types import UnsupportedModel

PRODUCTS: Final[Mapping[str, str]] = {
    "frames": "video",
    "videos": "video",
    "video": "video",
    "audios": "audio",
    "images": "image",
    "image": "image",
}
"""What is made, by the name of the field of an output that holds it; the first one that there is."""
SERVED: Final = ("image", "video")


def product_of(pipeline_class: Any) -> str:
    """image or video: what calling the pipeline makes. Raises UnsupportedModel if that is something else."""
    name = pipeline_class.__name__
    if name in FRAMES_AS_IMAGES:
        return "video"
    returned = {field for output in _outputs(pipeline_class) for field in output}
    made = next((product for field, product in PRODUCTS.items() if field in returned), None)
    if made in SERVED:
        return made
    what = "sound" if made else _listed(sorted(returned)) if returned else "what its code does not tell"
    raise UnsupportedModel(f"{name}: it makes {what}; only pipelines that make pictures or a video are served")


def _outputs(pipeline_class: Any) -> Iterator[tuple[str, ...]]:
    """The fields of each output class of which `__call__` makes an object."""
    from diffusers.utils import BaseOutput

    for owner in inspect.getmro(pipeline_class):
        call = inspect.unwrap(vars(owner).get("__call__", None))
        if not inspect.isfunction(call):
            continue
        found = []
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(call)))):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            made = call.__globals__.get(name)
            if inspect.isclass(made) and issubclass(made, BaseOutput) and dataclasses.is_dataclass(made):
                found.append(tuple(field.name for field in dataclasses.fields(made)))
        if found:
            yield from found
            return


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
