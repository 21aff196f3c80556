"""The IP-Adapters that a request names, each with the picture that it shows the model."""

from __future__ import annotations

from typing import Final

from diffusion_router.api.fields import Number
from diffusion_router.api.pictured import PicturedList
from diffusionpipeline.v1 import stage_pb2
from diffusionpipeline.words import IP_ADAPTER_NAME, IP_ADAPTERS, MAX_IP_ADAPTERS

IP_ADAPTER_LIST: Final = PicturedList(
    field=IP_ADAPTERS,
    kind="IP-Adapter",
    needs="an IP-Adapter shows the model a picture",
    listed="spec.model.ipAdapters",
    message=stage_pb2.IPAdapter,
    name_pattern=IP_ADAPTER_NAME,
    most=MAX_IP_ADAPTERS,
    numbers={"scale": Number("How much it counts; absent: as the pipeline says", -100, 100)},
    example='[{"name": "style", "image": "data:image/png;base64,…", "scale": 0.6}]',
    description="IP-Adapters by name, each with the picture that it shows the model",
)
