"""The operator's settings; `DIFFUSION_OPERATOR_HTTP_PORT` is the variable of `--http-port`."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from diffusion_operator.api import InvalidResourceError, Platform
from diffusion_operator.api.platform import NOTHING, load_platform, read_document
from diffusion_operator.render import Images
from diffusionpipeline.process.settings import ProcessSettings

_OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_IMAGES: Final = Images()


def _pods_namespace() -> str:
    return _OWN_NAMESPACE.read_text().strip() if _OWN_NAMESPACE.is_file() else ""


class Settings(ProcessSettings):
    """The operator: makes DiffusionPipelines so, and keeps them so."""

    model_config = SettingsConfigDict(env_prefix="DIFFUSION_OPERATOR_")

    kubeconfig: Path | None = Field(None, description="File to reach the API server by. Left out: the pod's own access")
    namespace: str = Field(
        default_factory=_pods_namespace,
        description="Namespace of the operator's pods, which isolated pipelines let in. Left out: the pod's own",
    )
    watch_namespaces: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Namespaces to serve, separated by commas. Empty: all"
    )
    worker_image: str = Field(_IMAGES.worker, min_length=1, description="Image of worker pods, unless spec.image says")
    router_image: str = Field(
        _IMAGES.router, min_length=1, description="Image of router pods, unless spec.router.image says"
    )
    platform_file: Path | None = Field(
        None, description="YAML file with defaults of all pipelines (docs/platform.md). Left out: none"
    )
    max_pipelines_rolling: int = Field(
        1, ge=1, description="Pipelines that move at once to what a new version or image makes of them"
    )
    router_address: str = Field(
        "{service}.{namespace}.svc:{port}",
        description="host:port of a pipeline's router (gRPC) as this process reaches it, to ask who is registered",
    )
    leader_elect: bool = Field(False, description="Work only while holding a Lease: for more than one replica")
    lease_name: str = Field("diffusion-operator", min_length=1, description="Name of that Lease")
    lease_namespace: str = Field("", description="Namespace of that Lease. Empty: the pod's own")
    lease_seconds: float = Field(15.0, ge=3, description="A Lease not renewed for so long may be taken by another")
    pod_name: str = Field(default_factory=socket.gethostname, min_length=1, description="This process among replicas")
    concurrency: int = Field(8, ge=1, le=256, description="Pipelines reconciled at once")
    resync_seconds: float = Field(600.0, ge=1, description="How often everything is listed and compared anew")
    http_host: str = Field(
        "::", description="Address of /healthz, /readyz and /metrics. :: or 0.0.0.0: all, of IPv4 and IPv6"
    )
    http_port: int = Field(8080, ge=0, le=65535, description="Port of /healthz, /readyz and /metrics; 0: a free one")

    @field_validator("watch_namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list):
            return sorted({part.strip() for item in value for part in str(item).split(",") if part.strip()})
        return value

    @field_validator("router_address")
    @classmethod
    def _format(cls, value: str) -> str:
        try:
            value.format(pipeline="p", service="s", namespace="n", port=1)
        except (KeyError, IndexError, ValueError):
            raise ValueError(
                f"{value!r} may name only {{pipeline}}, {{service}}, {{namespace}} and {{port}} in braces, such as "
                "{service}.{namespace}.svc:{port}"
            ) from None
        return value

    @field_validator("platform_file")
    @classmethod
    def _platform(cls, value: Path | None) -> Path | None:
        if value is not None:
            cls._read_platform(value)
        return value

    @property
    def platform(self) -> Platform:
        return NOTHING if self.platform_file is None else self._read_platform(self.platform_file)

    @staticmethod
    def _read_platform(path: Path) -> Platform:
        try:
            return load_platform(read_document(path))
        except InvalidResourceError as error:
            raise ValueError("; ".join(f"{path}: {fault}" for fault in error.errors)) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from None

    @property
    def images(self) -> Images:
        """One that a flag names is where it says; the version's own are in the platform's registry."""
        own = {"worker": self.worker_image, "router": self.router_image}
        given = {name for name in own if f"{name}_image" in self.model_fields_set}
        return Images(**{name: image if name in given else self.platform.image(image) for name, image in own.items()})

    @property
    def scopes(self) -> tuple[str | None, ...]:
        """Namespaces to list and watch; None is the whole cluster."""
        return tuple(self.watch_namespaces) or (None,)

    def own_namespace(self) -> str:
        """Where the Lease lies. Raises ValueError if neither a flag nor the pod says."""
        if self.lease_namespace:
            return self.lease_namespace
        if self.namespace:
            return self.namespace
        raise ValueError("--leader-elect outside a pod needs --lease-namespace: the namespace of the Lease")
