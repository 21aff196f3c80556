"""The worker's settings: each is a flag (`--pool-size`) and an environment variable (`DIFFUSION_WORKER_POOL_SIZE`).

A flag wins over the environment.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, Final, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, CliSettingsSource, NoDecode, SettingsConfigDict

from diffusion_worker.model.types import Stage

_ENV_PREFIX: Final = "DIFFUSION_WORKER_"


class Role(StrEnum):
    """What a worker may be; one worker may have several."""

    ENCODER = "encoder"
    DENOISER = "denoiser"
    DECODER = "decoder"

    @property
    def stage(self) -> Stage:
        return _STAGES[self]


_STAGES: Final = {Role.ENCODER: Stage.ENCODE, Role.DENOISER: Stage.DENOISE, Role.DECODER: Stage.DECODE}


class Settings(BaseSettings):
    """A worker: one pod's share of a model, its memory pool and its running tasks."""

    model_config = SettingsConfigDict(
        env_prefix=_ENV_PREFIX,
        cli_prog_name="python -m diffusion_worker",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_shortcuts={"roles": "role"},
        env_ignore_empty=True,
        frozen=True,
        protected_namespaces=(),
    )

    roles: Annotated[list[Role], NoDecode] = Field(
        description="encoder, denoiser or decoder; several, separated by commas, make a colocated worker"
    )
    pipeline: str = Field("default", min_length=1, description="Name of the pipeline that this worker belongs to")
    pod_name: str = Field("", description="Stable name of this worker. Empty: host name and process id")
    host: str = Field("127.0.0.1", min_length=1, description="Address that peers reach this worker by: the pod's IP")
    router: str = Field("127.0.0.1:8001", description="host:port of the router's gRPC interface")
    generation: str = Field("", description="Hash of the pod template; generations never exchange tensors")

    model_source: Literal["Bundled", "Path", "Hub"] = Field("Bundled", description="Where the model comes from")
    model_id: str = Field("digits", min_length=1, description="Bundled: its name; Path: a folder; Hub: owner/name")
    model_revision: str = Field("", description="Hub: a commit, tag or branch")
    model_dtype: str = Field("float32", description="Element type of the weights, such as bfloat16")
    allow_pickle: bool = Field(False, description="Also read weights that are pickles, which can run any code")
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the model computes")
    threads: int = Field(0, ge=0, le=1024, description="Threads of CPU computing. 0: what torch chooses")

    backend: Literal["mooncake", "tcp", "shm", "memory"] = Field("mooncake", description="How tensors move")
    protocol: Literal["auto", "rdma", "tcp"] = Field("auto", description="Network that Mooncake uses")
    fallback: Literal["Allow", "Deny"] = Field("Allow", description="Whether TCP will do where RDMA is asked for")
    rdma_devices: Annotated[list[str], NoDecode] = Field(
        [], description="RDMA devices that may be used, separated by commas. Empty: all that can be"
    )
    pool_size: int = Field(256 << 20, ge=1 << 16, description="Bytes of the memory pool")
    port_min: int = Field(15000, ge=1, le=65535, description="First port of the transport")
    port_max: int = Field(17000, ge=1, le=65535, description="Last port of the transport")

    health_port: int = Field(0, ge=0, le=65535, description="HTTP: /healthz, /readyz, /metrics; 0: a free port")
    grpc_health_port: int = Field(0, ge=0, le=65535, description="grpc.health.v1; 0: a free port")
    max_input_bytes: int = Field(64 << 20, gt=0, description="Bytes of the input files of one request")
    max_input_pixels: int = Field(64_000_000, gt=0, description="Pixels of one input picture")
    drain_seconds: float = Field(30.0, ge=0, description="After SIGTERM: time to finish, and to be pulled from")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else JSON")

    @field_validator("roles", "rdma_devices", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Accepts a comma list, a JSON list, and lists of either."""
        if isinstance(value, str):
            return [part.strip(" \"'") for part in value.strip(" []").split(",") if part.strip()]
        return value

    @field_validator("roles")
    @classmethod
    def _some_once(cls, value: list[Role]) -> list[Role]:
        if not value:
            raise ValueError("name at least one of encoder, denoiser, decoder")
        return [role for role in Role if role in value]

    @field_validator("router")
    @classmethod
    def _address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
            raise ValueError(f"{value!r} is not host:port")
        return value

    @field_validator("pod_name")
    @classmethod
    def _name(cls, value: str) -> str:
        return value or f"{socket.gethostname()}-{os.getpid()}"

    @model_validator(mode="after")
    def _ports(self) -> Self:
        if self.port_min > self.port_max:
            raise ValueError(f"--port-min {self.port_min} is above --port-max {self.port_max}")
        return self

    @property
    def stages(self) -> frozenset[Stage]:
        return frozenset(role.stage for role in self.roles)

    @property
    def label(self) -> str:
        """All roles in one word, for metrics of the whole worker."""
        return "+".join(self.roles)

    @property
    def health_host(self) -> str:
        """Where health is served: a local worker's stays on this machine, a pod's answers kubelet and port-forward."""
        try:
            local = ip_address(self.host).is_loopback
        except ValueError:
            local = self.host == "localhost"
        return self.host if local else ("::" if ":" in self.host else "0.0.0.0")


def read_settings(arguments: Sequence[str] | None = None) -> Settings:
    """From the command line (None: this process's) and the environment.

    Ends the process with status 2 and a line for each wrong value, which names the flag.
    """
    source: CliSettingsSource[Settings] = CliSettingsSource(
        Settings, cli_parse_args=list(sys.argv[1:] if arguments is None else arguments)
    )
    try:
        return Settings(_cli_settings_source=source)
    except ValidationError as error:
        for problem in error.errors():
            print(_explain(problem["loc"], problem["msg"]), file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None


def _explain(location: tuple[int | str, ...], message: str) -> str:
    if not location:
        return f"diffusion_worker: {message.removeprefix('Value error, ')}"
    name = str(location[0])
    flag = "role" if name == "roles" else name.replace("_", "-")
    return f"diffusion_worker: --{flag} ({_ENV_PREFIX}{name.upper()}): {message.removeprefix('Value error, ')}"
