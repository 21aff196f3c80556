"""A conditioning's key: of what encoding reads, and of nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from diffusion_router.peers.conditioning import key
from diffusionpipeline.v1 import stage_pb2

READS = frozenset(["prompt", "negative_prompt", "max_sequence_length"])
ASKED: dict[str, Any] = {"prompt": "a red seven", "negative_prompt": "blue", "seed": 7, "num_inference_steps": 4}


INK = stage_pb2.Adapter(name="ink", scale=0.5)
HOUSE = stage_pb2.Adapter(name="house")


def asked(**changes: Any) -> stage_pb2.JobParameters:
    return stage_pb2.JobParameters(**{**ASKED, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"num_inference_steps": 50},
        {"guidance_scale": 3.0},
        {"width": 512, "height": 256},
        {"output_format": "webp"},
        {"exact": True},
        {"adapters": [INK]},
    ],
    ids=str,
)
def test_what_encoding_does_not_read_changes_nothing(changes: dict[str, Any]) -> None:
    assert key(asked(**changes), READS) == key(asked(), READS)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a red eight"},
        {"negative_prompt": ""},
        {"negative_prompt": None},
        {"inputs": [stage_pb2.InputFile(name="image", key="inputs/1")]},
        {"inputs": [stage_pb2.InputFile(name="image", key=f"inputs/{key}") for key in (1, 2)]},
    ],
    ids=str,
)
def test_what_it_reads_makes_another(changes: dict[str, Any]) -> None:
    assert key(asked(**changes), READS) != key(asked(), READS)


def test_pictures_of_one_name_count_by_order_and_number() -> None:
    orders = [(1,), (1, 2), (2, 1), (1, 2, 2)]
    inputs = [[stage_pb2.InputFile(name="image", key=f"inputs/{one}") for one in order] for order in orders]
    assert len({key(asked(inputs=files), READS) for files in inputs}) == len(orders)


def test_what_pictures_are_for_counts_with_them() -> None:
    files = [stage_pb2.InputFile(name="ip_adapters", key="inputs/1")]
    style, face = stage_pb2.IPAdapter(name="style"), stage_pb2.IPAdapter(name="face")
    of_style = key(asked(inputs=files, ip_adapters=[style]), READS)
    assert key(asked(inputs=files, ip_adapters=[face]), READS) != of_style
    assert key(asked(inputs=files, ip_adapters=[style], seed=8), READS) == of_style
    led = [stage_pb2.Control(name="edges"), stage_pb2.Control(name="depth")]
    assert len({key(asked(inputs=files, controls=[one]), READS) for one in led}) == 2


def test_arguments_of_one_family_always_count() -> None:
    other = asked()
    other.extra["clip_skip"].int_value = 2
    assert key(other, READS) != key(asked(), READS)


def test_a_seed_counts_where_encoding_draws() -> None:
    reads = READS | {"seed"}
    assert key(asked(seed=8), reads) != key(asked(), reads)


def test_adapters_count_in_their_order_and_with_their_scales_where_encoding_reads_them() -> None:
    reads = READS | {"adapters"}
    scaled = stage_pb2.Adapter(name="ink", scale=0.6)
    sets = [[], [INK], [scaled], [HOUSE], [INK, HOUSE], [HOUSE, INK]]
    assert len({key(asked(adapters=adapters), reads) for adapters in sets}) == len(sets)
    assert key(asked(adapters=[INK], seed=8), reads) == key(asked(adapters=[INK]), reads)
