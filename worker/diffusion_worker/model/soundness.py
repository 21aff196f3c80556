"""Whether a pipeline's `__call__` can be cut in three at all, told from its source before any weight is loaded.

Replay hands one decoding's input to each network that decodes. What more a pipeline decodes would be made of zeros
there, so such pipelines are refused when a worker starts, and not in the middle of the first job.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Collection, Iterator, Mapping
from types import UnionType
from typing import Any, Final, TypeGuard, Union, get_args, get_origin

from diffusion_worker.model.arguments import FIELDS
from diffusion_worker.model.families import SECOND_SCHEDULERS
from diffusion_worker.model.types import UnsupportedModel

LISTENING: Final = ("register_forward_hook", "register_forward_pre_hook", "set_attn_processor")
"""Calls by which a pipeline changes its networks or watches them from inside: other requests go through the same ones,
and what one role saw there no other has."""


def check_cut(pipeline_class: Any, decoders: Mapping[str, Any]) -> None:
    """Raises UnsupportedModel if one of the `decoders` decodes other than once after the denoising loop.

    `decoders` are the classes of the components that decode, by name.
    """
    name = pipeline_class.__name__
    tree = ast.parse(textwrap.dedent(inspect.getsource(pipeline_class.__call__)))
    called = list(_calls(tree))
    if len(decoders) > 1 and any(called.count(f"self.{decoder}.decode") != 1 for decoder in decoders):
        raise UnsupportedModel(
            f"{name} decodes with {' and '.join(sorted(decoders))}, and a pipeline without blocks can be cut only "
            f"before a single decoding of each, that its __call__ makes itself"
        )
    listens = sorted({call for call in _calls(tree) if call.endswith(LISTENING)})
    if listens:
        raise UnsupportedModel(
            f"{name} changes or watches the inside of its network while it denoises ({listens[0]}), and other requests "
            f"go through the same network: name a class in model_index.json that does not"
        )
    copies = [ast.unparse(one.args[0]) for one in ast.walk(tree) if _copies(one)]
    taken = inspect.signature(pipeline_class.__init__).parameters
    given = {f"self.{copied}" for second, copied in SECOND_SCHEDULERS.items() if second in taken}
    if any(copied.startswith("self.") and copied.endswith("scheduler") for copied in copies if copied not in given):
        raise UnsupportedModel(
            f"{name} denoises with copies of its scheduler, of which a step can be neither followed nor parked"
        )
    for call in sorted(set(_calls(tree))):
        decoder, _, part = call.removeprefix("self.").partition(".")
        if decoder in decoders and part.isidentifier() and not hasattr(decoders[decoder], part):
            raise UnsupportedModel(
                f"{name} uses {decoder}.{part} apart from {decoder}'s encode and decode, so it can't run in the role "
                f"that decodes alone"
            )
    for loop in ast.walk(tree):
        if isinstance(loop, ast.For | ast.While):
            looped = set(_calls(loop))
            decodes = sorted(call for call in looped if _decodes(call, decoders))
            if decodes and any(call.endswith("scheduler.step") for call in looped):
                raise UnsupportedModel(
                    f"{name} calls {decodes[0]} inside of its denoising loop, so its decoder can't run apart from its "
                    f"denoiser"
                )


def is_sound(pipeline_class: Any, decoders: Mapping[str, type], pictures: Collection[str]) -> bool:
    """Whether the pipeline can be cut and called."""
    try:
        check_cut(pipeline_class, decoders)
        check_arguments(pipeline_class, pictures)
    except UnsupportedModel:
        return False
    return True


def check_arguments(pipeline_class: Any, pictures: Collection[str]) -> None:
    """Raises UnsupportedModel if the pipeline can't be called without what no request carries.

    `pictures` are those of its arguments that requests bring as files.
    """
    needed = [
        one.name
        for one in inspect.signature(pipeline_class.__call__).parameters.values()
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
        if one.name not in ("self", *FIELDS, *pictures) and not _is_scalar(one.annotation)
    ]
    if needed:
        raise UnsupportedModel(
            f"{pipeline_class.__name__} can't be called without {', '.join(needed)}, which no request can carry: of "
            f"requests are texts, numbers and pictures alone"
        )


def pictures_of(pipeline_class: Any) -> list[str]:
    """Arguments that are pictures or frames of a video, without those of adapters and those that are latents."""
    taken = inspect.signature(pipeline_class.__call__).parameters
    found = [name for name, one in taken.items() if "Image" in str(one.annotation)]
    return [name for name in found if "adapter" not in name and not name.endswith("_latents")]


def _is_scalar(annotation: Any) -> bool:
    union = get_origin(annotation) in (Union, UnionType)
    options = get_args(annotation) if union else (annotation,)
    return any(option in (str, int, float, bool) for option in options)


def _copies(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("copy.deepcopy", "deepcopy") and bool(node.args)


def _calls(tree: ast.AST) -> Iterator[str]:
    return (ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call))


def _decodes(call: str, decoders: Collection[str]) -> bool:
    return call in {f"self.{decoder}.decode" for decoder in decoders} or call.startswith("self.decode_")
