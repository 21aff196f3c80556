"""The worker's settings; `DIFFUSION_WORKER_POOL_SIZE` is the variable of `--pool-size`."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address
from itertools import pairwise
from typing import Annotated, Final, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode, SettingsConfigDict

from diffusion_worker.model.batching import Batching, Mode
from diffusionpipeline.process.settings import ProcessSettings
from diffusionpipeline.words import ADAPTER_NAME, MODEL_ROLES, SCHEDULER_NAME, STAGES, ModelRole, Stage

# As in the resource: a path in a folder or repository, which leaves neither. No folder: its root.
_FOLDER: Final = r"^([\w-][\w.-]*(/[\w-][\w.-]*)*)?$"
_FILE: Final = r"([^./\\][^/\\]*/)*[^./\\][^/\\]*"


class WeightsSetting(BaseModel):
    """Weights beside the model's own, which the pipeline's resource lists."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=f"^{ADAPTER_NAME}$")
    source: Literal["Path", "Hub"]
    id: str = Field(min_length=1, description="Path: where it is; Hub: owner/name")
    revision: str = ""
    scale: float = Field(1.0, allow_inf_nan=False)


class AdapterSetting(WeightsSetting):
    """Its `id` by Path: a folder or file."""

    file: str = Field("", pattern=rf"^({_FILE})?$", description="Of several in the folder or repository")


class ControlNetSetting(WeightsSetting):
    """Its `id` by Path: a folder."""

    subfolder: str = Field("", pattern=_FOLDER, description="Of the folder or repository")


class ImageEncoderSetting(BaseModel):
    """Where an IP-Adapter's is. No `id`: in its own folder or repository."""

    model_config = ConfigDict(extra="forbid")

    id: str = ""
    revision: str = ""
    subfolder: str = Field("", pattern=_FOLDER, description="Empty: image_encoder beside the file, or an id's root")


class IPAdapterSetting(WeightsSetting):
    """Its `id` by Path: a folder."""

    file: str = Field(pattern=rf"^{_FILE}\.(safetensors|bin)$", description="Of weights in the folder or repository")
    image_encoder: ImageEncoderSetting = ImageEncoderSetting()


class SchedulerSetting(BaseModel):
    """One of the schedulers that the pipeline's resource lists."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=f"^{SCHEDULER_NAME}$")
    class_name: str = Field(alias="class", pattern=r"^\w+$")
    options: dict[str, StrictBool | StrictInt | StrictFloat | StrictStr] = Field({}, max_length=32)


Named = TypeVar("Named", AdapterSetting, ControlNetSetting, IPAdapterSetting, SchedulerSetting)


class Settings(ProcessSettings):
    """A worker: one pod's share of a model, its memory pool and its running tasks."""

    model_config = SettingsConfigDict(env_prefix="DIFFUSION_WORKER_", cli_shortcuts={"roles": "role"})

    roles: Annotated[list[ModelRole], NoDecode] = Field(
        description="encoder, denoiser or decoder; several, separated by commas, make a colocated worker"
    )
    pipeline: str = Field("default", min_length=1, description="Name of the pipeline that this worker belongs to")
    pod_name: str = Field("", description="Stable name of this worker. Empty: host name and process id")
    pod_uid: str = Field("", description="The pod's uid, where there is one")
    host: str = Field("127.0.0.1", min_length=1, description="Address that peers reach this worker by: the pod's IP")
    router: str = Field("127.0.0.1:8001", description="host:port of the router's gRPC interface")
    generation: str = Field("", description="Hash of the pod template; generations never exchange tensors")

    model_source: Literal["Bundled", "Path", "Hub"] = Field("Bundled", description="Where the model comes from")
    model_id: str = Field("digits", min_length=1, description="Bundled: its name; Path: a folder; Hub: owner/name")
    model_revision: str = Field("", description="Hub: a commit, tag or branch")
    model_variant: str = Field(
        "", pattern=r"^[\w-]*$", description="Variant of the weights where a component has it, such as fp16"
    )
    model_dtype: str = Field("float32", description="Element type of the weights, such as bfloat16")
    vae_tiling: bool = Field(False, description="Read and draw pictures in tiles: less memory, slightly other pixels")
    adapters: list[AdapterSetting] = Field([], max_length=64, description="LoRA adapters, loaded at the start: JSON")
    adapter_folder: str = Field("", description="Folder of adapters that are loaded when requests first want them")
    max_loaded_adapters: int = Field(8, ge=1, le=256, description="Of that folder's, how many stay loaded")
    schedulers: list[SchedulerSetting] = Field([], max_length=16, description="That requests may name: JSON")
    control_nets: list[ControlNetSetting] = Field(
        [], max_length=8, description="ControlNets that requests may name, loaded at the start: JSON"
    )
    ip_adapters: list[IPAdapterSetting] = Field(
        [], max_length=8, description="IP-Adapters that requests may name, loaded at the start: JSON"
    )
    allow_pickle: bool = Field(False, description="Also read weights that are pickles, which can run any code")
    download_patience_seconds: float = Field(
        300.0, ge=0, description="Hub: a download is given up when nothing more came for so long"
    )
    cache_wait_seconds: float = Field(
        0.0, ge=0, description="Hub, where nothing may be downloaded: how long others have to fill the cache"
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the model computes")
    threads: int = Field(0, ge=0, le=1024, description="Threads of CPU computing. 0: what torch chooses")

    batching_mode: Mode = Field(
        "Guidance", description="Which forwards are shared: none, guidance's, or of any requests"
    )
    max_tokens: int = Field(65536, gt=0, description="Requests: positions of latents in one forward that they share")
    max_requests: int = Field(8, gt=0, le=256, description="Requests: how many are denoised at once")

    backend: Literal["mooncake", "tcp", "shm", "memory"] = Field("mooncake", description="How tensors move")
    protocol: Literal["auto", "rdma", "tcp"] = Field("auto", description="Network that Mooncake uses")
    encoder_to_denoiser: Literal["", "auto", "rdma", "tcp"] = Field(
        "", description="The same for what encoders make, if it is another than protocol"
    )
    denoiser_to_decoder: Literal["", "auto", "rdma", "tcp"] = Field(
        "", description="The same for what denoisers make, if it is another than protocol"
    )
    fallback: Literal["Allow", "Deny"] = Field("Allow", description="Whether TCP will do where RDMA is asked for")
    rdma_devices: Annotated[list[str], NoDecode] = Field(
        [], description="RDMA devices that may be used, separated by commas. Empty: all that can be"
    )
    shm_key: str = Field(
        "", description="Shared memory: workers of another key are not met. Empty: the pipeline's name"
    )
    pool_size: int = Field(256 << 20, ge=1 << 16, description="Bytes of the memory pool")
    cache_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Encoder: of the pool, how much is kept by what no job needs, for jobs that encode the same",
    )
    huge_pages: Literal["", "2Mi", "1Gi"] = Field("", description="Huge pages that it is made of. Empty: ordinary ones")
    port_min: int = Field(15000, ge=1, le=65535, description="First port of the transport")
    port_max: int = Field(17000, ge=1, le=65535, description="Last port of the transport")

    health_port: int = Field(0, ge=0, le=65535, description="HTTP: /healthz, /readyz, /metrics; 0: a free port")
    grpc_health_port: int = Field(0, ge=0, le=65535, description="grpc.health.v1; 0: a free port")
    max_input_bytes: int = Field(64 << 20, gt=0, description="Bytes of the input files of one request")
    max_input_pixels: int = Field(64_000_000, gt=0, description="Pixels of one input picture")
    drain_seconds: float = Field(30.0, ge=0, description="After SIGTERM: time to finish, and to be pulled from")
    stall_multiple: float = Field(
        10.0, ge=2, description="A step, encode or decode stands still after so many times what its shape takes here"
    )
    stall_seconds: float = Field(
        60.0, gt=0, description="But not before so many seconds; the event loop stands still after these"
    )
    stall_first_seconds: float = Field(
        900.0, gt=0, description="Nor before so many if its shape is new here: it may compile, or read cold weights"
    )

    @field_validator("roles", "rdma_devices", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Accepts a comma list, a JSON list, and lists of either."""
        if isinstance(value, str):
            return [part.strip(" \"'") for part in value.strip(" []").split(",") if part.strip()]
        return value

    @field_validator("roles")
    @classmethod
    def _some_once(cls, value: list[ModelRole]) -> list[ModelRole]:
        if not value:
            raise ValueError("name at least one of encoder, denoiser, decoder")
        return [role for role in MODEL_ROLES if role in value]

    @field_validator("router")
    @classmethod
    def _address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
            raise ValueError(f"{value!r} is not host:port")
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise ValueError(f"{value!r} is not host:port: an IPv6 address stands in brackets, as in [::1]:8001")
        return value

    @field_validator("pod_name")
    @classmethod
    def _name(cls, value: str) -> str:
        return value or f"{socket.gethostname()}-{os.getpid()}"

    @field_validator("adapters", "control_nets", "ip_adapters", "schedulers")
    @classmethod
    def _names_once(cls, value: list[Named]) -> list[Named]:
        if len({one.name for one in value}) < len(value):
            raise ValueError("two have one name")
        return value

    @model_validator(mode="after")
    def _ports(self) -> Self:
        if self.port_min > self.port_max:
            raise ValueError(f"--port-min {self.port_min} is above --port-max {self.port_max}")
        return self

    @model_validator(mode="after")
    def _stalls(self) -> Self:
        if self.stall_first_seconds < self.stall_seconds:
            raise ValueError(
                f"--stall-first-seconds {self.stall_first_seconds:g} is below --stall-seconds {self.stall_seconds:g}"
            )
        return self

    @property
    def stages(self) -> frozenset[Stage]:
        return frozenset(role.stage for role in self.roles)

    @property
    def has_adapters(self) -> bool:
        return bool(self.adapters or self.adapter_folder)

    @property
    def serves(self) -> str:
        """The protocol by which others pull from this worker: that of the edge that leaves it."""
        edges = self._edges(leaving=True) or self._edges(leaving=False)
        return edges[0] if edges else self.protocol

    @property
    def pulls(self) -> str:
        """The protocol by which its inputs come, if it is another; else empty."""
        edges = self._edges(leaving=False)
        return edges[0] if edges and edges[0] != self.serves else ""

    def _edges(self, *, leaving: bool) -> list[str]:
        """Protocols of the edges between this worker and others."""
        given = {Stage.ENCODE: self.encoder_to_denoiser, Stage.DENOISE: self.denoiser_to_decoder}
        return [
            given[maker] or self.protocol
            for maker, reader in pairwise(STAGES)
            if (maker in self.stages, reader in self.stages) == (leaving, not leaving)
        ]

    @property
    def batching(self) -> Batching:
        """Which denoisings compute together."""
        return Batching(mode=self.batching_mode, max_tokens=self.max_tokens, max_requests=self.max_requests)

    @property
    def capacity(self) -> int:
        """Tasks that are computed at once."""
        return self.batching.together if Stage.DENOISE in self.stages else 1

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
        return self.host if local else "::"
