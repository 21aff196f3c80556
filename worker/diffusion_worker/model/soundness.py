"""Whether a pipeline's `__call__` can be cut in three at all, told from its source before any weight is loaded.

Replay hands one decoding's input to the decoder. What more a pipeline decodes would be made of zeros there, so such
pipelines are refused when a worker starts, and not in the middle of the first job.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Collection
from typing import Any

from diffusion_worker.model.types import UnsupportedModel


def check_cut(pipeline_class: Any, decoders: Collection[str]) -> None:
    """Raises UnsupportedModel if the pipeline has several `decoders` or decodes inside of its denoising loop."""
    name = pipeline_class.__name__
    if len(decoders) > 1:
        raise UnsupportedModel(
            f"{name} decodes with {' and '.join(sorted(decoders))}, and a pipeline without blocks can be cut only "
            f"before a single decoding"
        )
    tree = ast.parse(textwrap.dedent(inspect.getsource(pipeline_class.__call__)))
    for loop in ast.walk(tree):
        if isinstance(loop, ast.For | ast.While):
            called = {ast.unparse(node.func) for node in ast.walk(loop) if isinstance(node, ast.Call)}
            decodes = sorted(call for call in called if _decodes(call, decoders))
            if decodes and any(call.endswith("scheduler.step") for call in called):
                raise UnsupportedModel(
                    f"{name} calls {decodes[0]} inside of its denoising loop, so its decoder can't run apart from its "
                    f"denoiser"
                )


def is_sound(pipeline_class: Any, decoders: Collection[str]) -> bool:
    """Whether the pipeline can be cut."""
    try:
        check_cut(pipeline_class, decoders)
    except UnsupportedModel:
        return False
    return True


def _decodes(call: str, decoders: Collection[str]) -> bool:
    return call in {f"self.{decoder}.decode" for decoder in decoders} or call.startswith("self.decode_")
