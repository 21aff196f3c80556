"""What the commands have in common: how they read a file, print and fail, and options that several have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn, TypeVar

import typer

from diffusionpipeline.words import EXIT_FAILED

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH: Final = 250

Read = TypeVar("Read")

NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="Left out: the context's.")]
ContextOption = Annotated[str | None, typer.Option(help="Of the kubeconfig. Left out: the current one.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def parsed(file: Path, read: Callable[[Path], Read], status: int = EXIT_FAILED) -> Read:
    """What `read` makes of a file; the command ends with what is wrong with it, line by line, and this status."""
    from diffusion_operator.api import InvalidResourceError

    try:
        return read(file)
    except InvalidResourceError as error:
        fail("\n".join(f"{file}: {fault}" for fault in error.errors), status)
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: {getattr(error, 'strerror', None) or error}", status)


def console(*, error: bool = True) -> Console:
    from rich.console import Console

    found = Console(stderr=error)
    # Without a terminal nothing is to be cut off.
    return found if found.is_terminal else Console(stderr=error, width=_PIPE_WIDTH)


def print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2))


def fail(message: str, status: int = EXIT_FAILED) -> NoReturn:
    typer.echo(message, err=True)
    raise SystemExit(status)
