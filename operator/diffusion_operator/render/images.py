"""Which image a container runs: what the resource says over what the operator was installed with."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from diffusion_operator.api import Image, Platform


@dataclass(frozen=True)
class Images:
    """Container images that the operator was installed with. Local processes have no use for one."""

    worker: str = f"diffusion-operator/worker:{version('diffusion-operator')}"
    router: str = f"diffusion-operator/router:{version('diffusion-operator')}"


PACKAGED: Final = Images()
"""Those of this package's own release."""


def of_platform(platform: Platform, images: Images = PACKAGED) -> Images:
    """Images of the operator's own, in the platform's registry."""
    return Images(worker=platform.image(images.worker), router=platform.image(images.router))


def reference(image: Image, default: str) -> str:
    """A digest wins over a tag; a tag or digest alone is one of the default's repository."""
    if not (image.repository or image.tag or image.digest):
        return default
    name = default.partition("@")[0]
    # A colon before the last slash is that of a registry's port.
    slash, colon = name.rfind("/"), name.rfind(":")
    repository, tag = (name[:colon], name[colon + 1 :]) if colon > slash else (name, "")
    repository = image.repository or repository
    if image.digest:
        return f"{repository}@{image.digest}"
    tag = image.tag or tag
    return f"{repository}:{tag}" if tag else repository
