"""What the commands have in common: how they read a file, print and fail, and options that several have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NoReturn

import typer

from diffusionpipeline.words import EXIT_FAILED

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH: Final = 250

NamespaceOption = Annotated[str | None, typer.Option("--namespace", "-n", help="Left out: the context's.")]
ContextOption = Annotated[str | None, typer.Option(help="Of the kubeconfig. Left out: the current one.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextlib.contextmanager
def faults_of(file: Path, status: int = EXIT_FAILED) -> Iterator[None]:
    """Ends the program with what is wrong with a file, each fault with its name."""
    from diffusion_operator.api import InvalidResourceError

    try:
        yield
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
