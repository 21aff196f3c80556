"""The router's settings; `DIFFUSION_ROUTER_HTTP_PORT` is the variable of `--http-port`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from diffusion_router import core
from diffusion_router.api.limits import Limits
from diffusionpipeline.process.connections import HttpBounds
from diffusionpipeline.process.settings import ProcessSettings


class Settings(ProcessSettings):
    """The router: registry of peers, every job, and the public API."""

    model_config = SettingsConfigDict(env_prefix="DIFFUSION_ROUTER_")

    pipeline: str = Field("default", min_length=1, description="Name of the pipeline that this router leads")
    namespace: str = Field("", description="Kubernetes namespace of the pipeline, which tells it from its namesakes")
    host: str = Field(
        "127.0.0.1", description="Address to listen on, for HTTP and gRPC. :: or 0.0.0.0: all, of IPv4 and IPv6"
    )
    http_port: int = Field(8000, ge=0, le=65535, description="Serves /v1, /healthz, /readyz, /metrics; 0: a free port")
    grpc_port: int = Field(8001, ge=0, le=65535, description="Serves workers and gRPC clients; 0: a free port")
    data_dir: Path = Field(Path("router-data"), description="Folder of the default job store and artifact store")
    store_url: str = Field("", description="Job store, a SQLAlchemy URL. Empty: a SQLite file in the data folder")
    artifacts_url: str = Field(
        "", description="Artifact store, a folder or an s3://, gs:// or az:// URL. Empty: a folder in the data folder"
    )
    store_timeout_seconds: float = Field(30.0, gt=0, description="How long the job store may take for one operation")
    durability: Literal["flushed", "relaxed"] = Field(
        "flushed",
        description="flushed: a completed job's files are on disk. relaxed: those of the last seconds may be lost in a "
        "power cut; of object storage, neither makes a difference",
    )
    disk_reserve_bytes: int = Field(
        64 << 20, ge=0, description="Bytes of an artifact folder's disk that files leave to the job store"
    )
    lease_seconds: float = Field(15.0, gt=0, description="A peer that is silent for this long is lost")
    settle_seconds: float = Field(
        5.0, ge=0, description="After a start: how long restored jobs wait for workers to say what they hold"
    )
    request_timeout_seconds: float = Field(600.0, gt=0, description="A job's deadline, unless its request names one")
    max_queued_requests: int = Field(
        256, gt=0, description="Accepted jobs, beyond those that run, that have not ended; one more is answered 429"
    )
    scheduling_policy: Literal["Fifo", "Deadline"] = Field(
        "Deadline",
        description="Which job is next. Fifo: the oldest. Deadline: by their targets, so that most meet theirs",
    )
    target_factor: float = Field(
        3.0,
        ge=1,
        le=1000,
        allow_inf_nan=False,
        description="Deadline: a job's target, so many times what it is predicted to take alone, unless its request "
        "names one",
    )
    late_share: int = Field(
        4,
        ge=0,
        le=1000,
        description="Deadline: of so many starts while jobs are late, one is the oldest late one's; 0: none is",
    )
    checkpoint_seconds: float = Field(
        0.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="Work that a denoiser which dies may take with it: so often another keeps a checkpoint. 0: none",
    )
    retain_seconds: float = Field(86_400.0, gt=0, description="How long an ended job and its files are kept")
    model_id: str = Field("", description="Name of the served model. Empty: whatever the workers say they serve")

    max_pixels: int = Field(2048 * 2048, gt=0, description="Width times height that a request may ask for")
    max_steps: int = Field(200, gt=0, description="Denoising steps that a request may ask for")
    max_frames: int = Field(257, gt=0, description="Frames that a request may ask for")
    max_prompt_chars: int = Field(8000, gt=0, description="Characters of a prompt, and of a negative prompt")
    max_upload_bytes: int = Field(32 << 20, gt=0, description="Bytes of one HTTP request's body")
    max_artifact_bytes: int = Field(1 << 30, gt=0, description="Bytes of one file that a worker uploads")
    max_images_per_request: int = Field(10, gt=0, le=1000, description="Jobs of one request (n), and its input images")

    max_connections: int = Field(
        1024, gt=0, description="HTTP connections with a request. Fewer where the process may open few files"
    )
    max_header_bytes: int = Field(64 << 10, ge=1024, description="Bytes of an HTTP request's first line and headers")
    header_seconds: float = Field(15.0, gt=0, description="How long a client may take to send its headers")
    body_seconds: float = Field(60.0, gt=0, description="How long a client may take to send its body")
    idle_seconds: float = Field(75.0, gt=0, description="How long a connection is kept without a request")
    max_body_bytes_in_flight: int = Field(
        256 << 20, gt=0, description="Bytes of all bodies that are being read; at least those of one upload"
    )
    max_json_values: int = Field(10_000, gt=0, description="Values in one JSON body")

    @property
    def qualified_pipeline(self) -> str:
        """The pipeline's name among all that may share a job store."""
        return f"{self.namespace}/{self.pipeline}" if self.namespace else self.pipeline

    @property
    def resolved_store_url(self) -> str:
        """Where jobs are kept, as a URL also when none is set."""
        return self.store_url or f"sqlite:///{self.data_dir.absolute() / 'jobs.db'}"

    @property
    def resolved_artifacts_url(self) -> str:
        """Where files are kept, also when no place is set."""
        return self.artifacts_url or str(self.data_dir.absolute() / "artifacts")

    @property
    def scheduling(self) -> core.Fifo | core.Deadline:
        """In which order jobs are served."""
        if self.scheduling_policy == "Fifo":
            return core.Fifo()
        return core.Deadline(target_factor=self.target_factor, late_share=self.late_share)

    @property
    def limits(self) -> Limits:
        """What one request may ask for."""
        return Limits(
            max_pixels=self.max_pixels,
            max_steps=self.max_steps,
            max_frames=self.max_frames,
            max_prompt_chars=self.max_prompt_chars,
            max_upload_bytes=self.max_upload_bytes,
            max_images_per_request=self.max_images_per_request,
            max_artifact_bytes=self.max_artifact_bytes,
            max_seconds=self.request_timeout_seconds,
            retain_seconds=self.retain_seconds,
            max_json_values=self.max_json_values,
            max_body_bytes_in_flight=max(self.max_body_bytes_in_flight, self.max_upload_bytes),
            body_seconds=self.body_seconds,
        )

    def http_bounds(self, connections: int) -> HttpBounds:
        """Of connections. connections: how many there is room for."""
        return HttpBounds(
            max_connections=min(self.max_connections, connections),
            header_bytes=self.max_header_bytes,
            header_seconds=self.header_seconds,
            body_seconds=self.body_seconds,
            idle_seconds=self.idle_seconds,
        )
