"""Writes the locks: every package that images and CI install, with its version and the hashes of its files.

    make locks              what is pinned stays, as far as it still fits
    make locks UPGRADE=1    the latest that fit

What is asked for stands in pyproject.toml alone; here is what each image can do without. All locks agree with ci.txt,
so what images have is what tests ran with. A lock names the digest of what it was made from, by which `stale` tells,
without a network, those that pyproject.toml has left behind.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
PROJECT: Final = FOLDER.parent / "pyproject.toml"
PYTHON: Final = "3.11"
"""The oldest that is promised; markers in a lock tell others apart."""

CI: Final = "ci"
_INPUTS: Final = "# made from: "

# What an image's program never imports.
NOT_IN_OPERATOR: Final = [
    "fastapi",
    "uvicorn",
    "python-multipart",
    "sqlalchemy",
    "obstore",
    "pillow",
    "typer",
    "rich",
    "httpx",
    "xxhash",
]
NOT_IN_ROUTER: Final = [
    "kopf",
    "kubernetes",
    "aiohttp",
    "common-expression-language",
    "jsonschema",
    "tzdata",
    "pyyaml",
    "typer",
    "rich",
]
NOT_IN_CLI: Final = ["kopf", "kubernetes", "fastapi", "uvicorn", "python-multipart", "sqlalchemy", "obstore"]
NOT_IN_WORKER: Final = [
    "kopf",
    "kubernetes",
    "common-expression-language",
    "jsonschema",
    "tzdata",
    "python-multipart",
    "sqlalchemy",
    "obstore",
    "typer",
    "rich",
    "torch",
    "torchvision",
]
# Images have it from elsewhere than their lock, with all that it needs: Debian's, or torch.txt, which has not what the
# image's own lock has.
APART: Final = {
    "worker-cpu": ("torch", "torchvision"),
    "worker-cuda": ("torch", "torchvision"),
    "torch": ("numpy", "pillow"),
}


def asked() -> dict[str, list[str]]:
    """Requirements by the lock that pins them."""
    document = tomllib.loads(PROJECT.read_text(encoding="utf-8"))
    project, tools = document["project"], {"build": document["build-system"]["requires"], **document["tool"]["locks"]}
    base, extras = project["dependencies"], project["optional-dependencies"]
    worker = [*base, *extras["worker"]]
    return {
        CI: [*worker, *extras["mooncake-cpu"], *extras["dev"]],
        **tools,
        "operator": _without(base, NOT_IN_OPERATOR),
        "router": _without(base, NOT_IN_ROUTER),
        "cli": _without(base, NOT_IN_CLI),
        "worker-cpu": _without([*worker, *extras["mooncake-cpu"]], NOT_IN_WORKER),
        "worker-cuda": _without([*worker, *extras["mooncake"]], NOT_IN_WORKER),
        "torch": [line for line in worker if _name(line) in ("torch", "torchvision")],
    }


def stale() -> list[str]:
    """Locks that are missing, or were made from other requirements than pyproject.toml's."""
    found = asked()
    return [name for name, lines in found.items() if _INPUTS + _digest(name, lines) not in _text(name)]


def check() -> int:
    """The exit code: 1 if a lock is stale, which is told."""
    for name in (left := stale()):
        print(f"locks/{name}.txt was made from other requirements than pyproject.toml's: run make locks")  # noqa: T201
    return int(bool(left))


def write(uv: str, *, upgrade: bool) -> None:
    for name, lines in asked().items():
        with tempfile.TemporaryDirectory() as folder:
            requirements, config = Path(folder, "requirements.in"), Path(folder, "uv.toml")
            requirements.write_text("\n".join(lines) + "\n")
            config.write_text(f"exclude-dependencies = {_excluded(name)}\n")
            arguments = [
                "--no-header",
                "--no-annotate",
                "--universal",
                f"--python-version={PYTHON}",
                "--generate-hashes",
            ]
            arguments += ["--no-emit-index-url", "--no-emit-find-links", "--quiet"]
            arguments += [f"--constraints={FOLDER / CI}.txt"] if name != CI else []
            draft = Path(folder, f"{name}.txt")
            if not upgrade:
                # Versions that it has stay, as far as they still fit.
                draft.write_text(_text(name))
            command = [uv, "pip", "compile", f"--config-file={config}", *arguments, f"--output-file={draft}"]
            subprocess.run([*command, requirements], check=True)
            head = f"# Written by `make locks`.\n{_INPUTS}{_digest(name, lines)}\n"
            (FOLDER / f"{name}.txt").write_text(head + draft.read_text())
        print(f"{name}: {_text(name).count('==')} packages")  # noqa: T201


def _excluded(name: str) -> list[str]:
    own = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["tool"]["uv"]["exclude-dependencies"]
    return [*own, *APART.get(name, ())]


def _text(name: str) -> str:
    file = FOLDER / f"{name}.txt"
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _digest(name: str, lines: Iterable[str]) -> str:
    made_from = "\n".join([PYTHON, *sorted(lines), *_excluded(name)])
    return hashlib.sha256(made_from.encode()).hexdigest()


def _without(lines: Sequence[str], names: Sequence[str]) -> list[str]:
    return [line for line in lines if _name(line) not in names]


def _name(line: str) -> str:
    match = re.match(r"[A-Za-z0-9-]+", line)
    assert match is not None, line
    return match[0]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--check"]:
            sys.exit(check())
        case [uv, *options]:
            write(uv, upgrade="--upgrade" in options)
        case _:
            sys.exit("usage: write.py --check | UV [--upgrade]")
