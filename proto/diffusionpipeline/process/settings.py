"""Settings of a process: each is a flag (`--http-port`) and an environment variable (`DIFFUSION_ROUTER_HTTP_PORT`).

A flag wins over the environment. A variable that is empty is one that is not set, whatever its type. What is wrong ends
the process with status 2 and a line for each fault, which names program, flag and variable.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn, Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict, SettingsError

from diffusionpipeline.words import EXIT_USAGE, LogFormat, LogLevel

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# How pydantic tells the members of an enumeration: <Role.ENCODER: 'encoder'>.
_MEMBER: Final = re.compile(r"<[\w.]+: ('[^']*')>")


class ProcessSettings(BaseSettings):
    """A program's own has its fields, an `env_prefix` that is its name in capitals, and a docstring for --help."""

    model_config = SettingsConfigDict(
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        cli_exit_on_error=False,
        env_ignore_empty=True,
        frozen=True,
        protected_namespaces=(),
    )

    log_format: LogFormat = Field("auto", description="auto: console on a terminal, else JSON")
    log_level: LogLevel = Field("info", description="Least level that is logged")

    @classmethod
    def read(cls, arguments: Sequence[str] | None = None) -> Self:
        """From the command line (None: this process's) and the environment. Raises SystemExit after it said why."""
        try:
            source: CliSettingsSource[Self] = CliSettingsSource(
                cls,
                cli_prog_name=f"python -m {cls._program()}",
                cli_parse_args=list(sys.argv[1:] if arguments is None else arguments),
            )
            return cls(_cli_settings_source=source)
        except SettingsError as error:
            cls._refuse([f"{str(error).removeprefix('error parsing CLI: ')}; --help lists the flags"])
        except ValidationError as error:
            cls._refuse([cls._explain(problem) for problem in error.errors()])

    @classmethod
    def _program(cls) -> str:
        return cls.model_config["env_prefix"].rstrip("_").lower()

    @classmethod
    def _refuse(cls, faults: Sequence[str]) -> NoReturn:
        for fault in faults:
            print(f"{cls._program()}: {fault}", file=sys.stderr)  # noqa: T201
        raise SystemExit(EXIT_USAGE)

    @classmethod
    def _explain(cls, problem: ErrorDetails) -> str:
        text = _MEMBER.sub(r"\1", problem["msg"].removeprefix("Value error, "))
        if not problem["loc"]:
            return text
        if problem["type"] not in ("missing", "value_error"):
            text = f"{text}, not {problem['input']!r}"
        name = str(problem["loc"][0])
        flag = str((cls.model_config.get("cli_shortcuts") or {}).get(name, name)).replace("_", "-")
        return f"--{flag} ({cls.model_config['env_prefix']}{name.upper()}): {text}"
