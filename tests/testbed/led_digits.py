"""ControlNets for the bundled model, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def control_net(place: Path, seed: int = 0, **changes: Any) -> Path:
    """Writes one into the folder `place`. `changes` of its config."""
    import torch
    from diffusers import FluxControlNetModel, FluxTransformer2DModel

    from diffusion_worker.model import resolve_model
    from testbed.zoo.classes.controls import shared

    leads = FluxTransformer2DModel.from_pretrained(resolve_model("Bundled", "digits", "") / "transformer")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = shared(leads, FluxControlNetModel) | {"num_layers": 1, "num_single_layers": 1}
        network = FluxControlNetModel(**{**config, **changes})
        for zero in (weight for weight in network.parameters() if not weight.any()):
            # A ControlNet begins with zeros, and so as one that says nothing.
            torch.nn.init.normal_(zero, std=0.2)
    network.save_pretrained(place, safe_serialization=True)
    return place
