"""Commands on models, which run where the worker's libraries are."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dpipe.terminal import JsonOption, fail


def check(
    model: Annotated[str, typer.Argument(help="A folder, the name of a bundled model, or an id on the hub.")],
    quick: Annotated[bool, typer.Option("--quick", help="Check a small random copy made from its configs.")] = False,
    sizes: Annotated[
        bool, typer.Option("--sizes", help="Only print what each role loads; downloads no weights.")
    ] = False,
    as_json: JsonOption = False,
    revision: Annotated[str | None, typer.Option(help="Of a model on the hub.")] = None,
    variant: Annotated[str | None, typer.Option(help="Of the weights, where a component has it, such as fp16.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each process.")] = None,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Load pickles, which may run any code.")] = False,
    vae_tiling: Annotated[bool, typer.Option("--vae-tiling", help="As model.vae.tiling says it.")] = False,
) -> None:
    """Find out for which uses a model can be served in roles.

    Runs each use (from a text, a picture, with a mask, …) whole and cut, and compares the bytes. Exit status: 0 every
    use that the model takes is served, 1 some are not, 2 the model is refused.
    """
    switches = {"--quick": quick, "--sizes": sizes, "--json": as_json}
    switches |= {"--allow-pickle": allow_pickle, "--vae-tiling": vae_tiling}
    values = {"--revision": revision, "--variant": variant, "--dtype": dtype, "--device": device, "--threads": threads}
    _run("check", [model], switches, values)


def convert(
    file: Annotated[Path, typer.Argument(help="A .safetensors of a whole model, or of its denoiser alone.")],
    directory: Annotated[Path, typer.Argument(help="To make; must not be there yet, or be empty.")],
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|REPOSITORY",
            help="A pipeline of the same family: configs, tokenizers and what the file lacks are its. Left out: the "
            "hub's, by diffusers' guess.",
        ),
    ] = None,
    pipeline: Annotated[str | None, typer.Option(metavar="CLASS", help="Left out: the config's.")] = None,
    component: Annotated[
        str | None, typer.Option(help="Which denoiser the file holds, of a pipeline that has several.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16. Left out: as it is in the file.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Name to give the weights, such as fp16.")] = None,
    allow_pickle: Annotated[bool, typer.Option("--allow-pickle", help="Read a .ckpt, which may run any code.")] = False,
) -> None:
    """Make a pipeline folder of a single file of weights.

    The folder is there whole, loaded once as a worker does, or not at all. Exit status: 0 it is made, 2 it is not.
    """
    values = {"--config": config, "--pipeline": pipeline, "--component": component}
    values |= {"--dtype": dtype, "--variant": variant}
    _run("convert", [str(file), str(directory)], {"--allow-pickle": allow_pickle}, values)


def _run(
    command: str, arguments: Sequence[str], switches: Mapping[str, bool], values: Mapping[str, object]
) -> NoReturn:
    """Becomes the worker's command of this name: it hears signals itself, and its status is this one's."""
    import importlib.util

    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("diffusers") is None:
        fail(
            "this needs the worker's libraries: pip install 'diffusion-operator[worker]', or in the worker's image "
            f"python -m diffusion_worker.model.{command} with the same arguments"
        )
    line = [sys.executable, "-m", f"diffusion_worker.model.{command}", *arguments]
    line += [name for name, given in switches.items() if given]
    line += [text for name, value in values.items() if value is not None for text in (name, str(value))]
    os.execv(sys.executable, line)
