"""The ControlNets that a request names, each with the picture by which it leads."""

from __future__ import annotations

from typing import Final

from diffusion_router.api.fields import Integer, InvalidField, Number
from diffusion_router.api.pictured import PicturedList
from diffusionpipeline.v1 import stage_pb2
from diffusionpipeline.words import CONTROL_NAME, CONTROLS, MAX_CONTROLS


def _in_order(at: str, control: stage_pb2.Control) -> None:
    if control.HasField("start") and control.start >= (control.end if control.HasField("end") else 1):
        raise InvalidField(f"{at}.start", f"Field '{at}.start' must be below its end")
    if control.HasField("end") and control.end <= control.start:
        raise InvalidField(f"{at}.end", f"Field '{at}.end' must be above its start")


CONTROL_LIST: Final = PicturedList(
    field=CONTROLS,
    kind="ControlNet",
    needs="a ControlNet leads by a picture",
    listed="spec.model.controlNets",
    message=stage_pb2.Control,
    name_pattern=CONTROL_NAME,
    most=MAX_CONTROLS,
    numbers={
        "scale": Number("How much it counts; absent: as the pipeline says", -100, 100),
        "start": Number("The share of the steps after which it begins to lead; absent: 0", 0, 1),
        "end": Number("The share of the steps after which it leads no more; absent: 1", 0, 1),
        "mode": Integer("Which kind of picture it is, of a ControlNet for several", 0, 1000),
    },
    example='[{"name": "edges", "image": "data:image/png;base64,…", "scale": 0.8}]',
    description="ControlNets by name, each with the picture by which it leads",
    check_together=_in_order,
)
