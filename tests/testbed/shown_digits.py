"""IP-Adapters for the bundled model, with random weights: "look" and "style", beside their image encoder."""

from __future__ import annotations

from pathlib import Path


def ip_adapters(place: Path) -> Path:
    """Writes them into the folder `place`."""
    from diffusers import FluxTransformer2DModel

    from diffusion_worker.model import resolve_model
    from testbed.zoo.ip_adapters import write

    place.mkdir(parents=True, exist_ok=True)
    network = FluxTransformer2DModel.from_pretrained(resolve_model("Bundled", "digits", "") / "transformer")
    return write(network, place, ("look", "style"))
