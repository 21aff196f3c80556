"""Calls are joined by the position of the batch, and only those that can be."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffusion_worker.model.calls import Call, Unmergeable, bind, merge, split
from unit.hub.networks import Doubler, call

NETWORK = Doubler()


def made(**arguments: Any) -> Call:
    return Call(NETWORK, arguments, next(iter(arguments)))


def joined(*calls: Call) -> dict[str, Any]:
    assert len({each.key for each in calls}) == 1
    return dict(merge(calls).arguments)


def test_samples_follow_each_other() -> None:
    found = joined(made(x=torch.zeros(1, 2)), made(x=torch.ones(1, 2)))
    assert torch.equal(found["x"], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))


def test_a_timestep_of_one_element_becomes_one_a_sample() -> None:
    found = joined(made(x=torch.zeros(2, 4), t=torch.tensor(7.0)), made(x=torch.zeros(2, 4), t=torch.tensor([8.0])))
    assert found["t"].tolist() == [7, 7, 8, 8]


def test_one_timestep_a_sample_stays_so() -> None:
    found = joined(
        made(x=torch.zeros(2, 4), t=torch.tensor([1.0, 2.0])), made(x=torch.zeros(2, 4), t=torch.tensor(8.0))
    )
    assert found["t"].tolist() == [1, 2, 8, 8]


def test_a_table_that_all_samples_share_is_passed_once() -> None:
    table = torch.arange(6).reshape(3, 2)
    found = joined(made(x=torch.zeros(1, 4), ids=table), made(x=torch.ones(1, 4), ids=table.clone()))
    assert torch.equal(found["ids"], table)


def test_tables_that_differ_keep_calls_apart() -> None:
    calls = [made(x=torch.zeros(1, 4), ids=torch.full((3, 2), n)) for n in range(2)]
    with pytest.raises(Unmergeable):
        merge(calls)


def test_what_is_nested_is_joined_in_its_place() -> None:
    calls = [
        made(x=torch.zeros(1, 4), added={"ids": torch.full((1, 3), n), "deep": (torch.full((1, 2), n), None)})
        for n in (1.0, 2.0)
    ]
    added = joined(*calls)["added"]
    assert added["ids"].tolist() == [[1, 1, 1], [2, 2, 2]]
    assert added["deep"][0].tolist() == [[1, 1], [2, 2]]
    assert added["deep"][1] is None


def test_lists_of_samples_follow_each_other_whatever_their_lengths() -> None:
    one, two = made(x=[torch.zeros(4, 2)]), made(x=[torch.zeros(6, 2)])
    assert [sample.shape[0] for sample in joined(one, two)["x"]] == [4, 6]


def test_prompts_of_different_lengths_are_padded_under_their_mask() -> None:
    calls = [
        made(x=torch.zeros(1, 4, 2), text=torch.ones(1, length, 3), text_mask=torch.ones(1, length, dtype=torch.bool))
        for length in (2, 5)
    ]
    found = joined(*calls)
    assert found["text"].shape == (2, 5, 3)
    assert found["text_mask"].sum(1).tolist() == [2, 5]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(made(x=torch.zeros(1, 5)), id="another shape"),
        pytest.param(made(x=torch.zeros(1, 4, dtype=torch.float64)), id="another dtype"),
        pytest.param(made(x=torch.zeros(1, 4), scale=2.0), id="another argument"),
        pytest.param(made(x=torch.zeros(1, 4), hook=object()), id="what can't be compared"),
        pytest.param(Call(Doubler(), {"x": torch.zeros(1, 4)}, "x"), id="another network"),
    ],
)
def test_calls_that_differ_have_other_keys(other: Call) -> None:
    assert other.key != made(x=torch.zeros(1, 4)).key
    assert made(x=torch.zeros(1, 4), scale=1.0).key != other.key


def test_each_call_gets_back_its_own_samples() -> None:
    calls = [call(NETWORK, 1.0, shape=(2, 3)), call(NETWORK, 5.0, shape=(1, 3))]
    first, second = split((torch.arange(9).reshape(3, 3), {"not": "a tensor"}), calls)
    assert (first[0].tolist(), second[0].tolist()) == ([[0, 1, 2], [3, 4, 5]], [[6, 7, 8]])


def test_of_samples_in_lists_each_call_gets_back_its_own() -> None:
    calls = [made(x=[torch.zeros(4, 2), torch.zeros(3, 2)]), made(x=[torch.zeros(6, 2)])]
    first, second = split([torch.zeros(1), torch.ones(1), torch.ones(1)], calls)
    assert (len(first), len(second)) == (2, 1)


def test_a_list_of_several_tensors_with_a_batch_each_is_no_list_of_samples() -> None:
    calls = [made(x=torch.zeros(1, 4), residuals=[torch.full((1, 2), n), torch.full((1, 3), n)]) for n in (1.0, 2.0)]

    residuals = joined(*calls)["residuals"]
    assert [one.tolist() for one in residuals] == [[[1, 1], [2, 2]], [[1, 1, 1], [2, 2, 2]]]

    first, second = split(residuals, calls)
    assert [one.tolist() for one in first] == [[[1, 1]], [[1, 1, 1]]]
    assert [one.tolist() for one in second] == [[[2, 2]], [[2, 2, 2]]]


@pytest.mark.parametrize(
    ("main", "tokens"),
    [
        (torch.zeros(2, 64, 16), 128),
        (torch.zeros(2, 4, 8, 8), 128),
        (torch.zeros(1, 16, 3, 8, 8), 192),
        ([torch.zeros(16, 1, 4, 4), torch.zeros(16, 1, 8, 8)], 80),
    ],
)
def test_tokens_are_positions_without_channels(main: Any, tokens: int) -> None:
    assert made(x=main).tokens == tokens


def test_arguments_are_those_of_forward_however_they_were_given() -> None:
    one = bind(NETWORK, ["x", "t"], [torch.zeros(1, 2), torch.tensor(1.0)], {})
    other = bind(NETWORK, ["x", "t"], [], {"t": torch.tensor(1.0), "x": torch.zeros(1, 2)})
    assert one.key == other.key
    assert one.arguments.keys() == other.arguments.keys() == {"x", "t"}
    assert bind(NETWORK, ["x"], [torch.zeros(1, 2)], {"extra": 1}).arguments["extra"] == 1


@pytest.mark.parametrize(("args", "kwargs"), [([1, 2], {}), ([1], {"x": 1})], ids=["too many", "twice"])
def test_arguments_that_forward_does_not_take_are_refused(args: list[Any], kwargs: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="Doubler takes x, each once"):
        bind(NETWORK, ["x"], args, kwargs)
