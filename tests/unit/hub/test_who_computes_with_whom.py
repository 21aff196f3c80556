"""The hub: who leads, who joins, and what becomes of forwards that fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from diffusion_worker.model.batching import Company
from diffusion_worker.model.calls import Call
from diffusion_worker.model.forwards import Forwards
from diffusion_worker.work.hub import Hub, Member
from diffusion_worker.work.strand import Ask, Strand
from unit.hub.networks import Doubler, Mixer, call

Ended = list[tuple[str, Any]]


class Stop(BaseException):
    pass


class Bench:
    """A hub, and what its strands ended with, by name and in order."""

    def __init__(self, *, max_tokens: int = 1000, max_requests: int = 8) -> None:
        self.forwards = Forwards()
        self.hub: Hub[list[float]] = Hub(self.forwards, max_tokens=max_tokens, max_requests=max_requests)
        self.ended: Ended = []

    def add(
        self,
        name: str,
        questions: Sequence[Sequence[Call]],
        *,
        order: int | None = None,
        company: Company = Company.ANY,
    ) -> Member[list[float]]:
        def work(ask: Ask) -> list[float]:
            return [answer.flatten()[0].item() for question in questions for answer in ask(question)]

        def ended(member: Member[list[float]]) -> None:
            self.ended.append((name, member.strand.error or member.strand.result))

        place = (len(self.hub) if order is None else order,)
        member = Member(Strand(work), place, company, ended)
        self.hub.add(member)
        return member

    def run(self) -> Ended:
        while self.hub.tick():
            pass
        return self.ended


def steps(network: torch.nn.Module, value: float, count: int = 1, *, branches: int = 1) -> list[list[Call]]:
    return [[call(network, value, t=branch) for branch in range(branches)] for _ in range(count)]


def test_each_gets_its_own_answer_from_a_forward_that_they_share() -> None:
    bench, network = Bench(), Doubler()
    for value in (1.0, 2.0, 3.0):
        bench.add(str(value), steps(network, value, 2))
    assert bench.run() == [("1.0", [2, 2]), ("2.0", [4, 4]), ("3.0", [6, 6])]
    assert network.batches == [3, 1, 1, 1, 3]


def test_nobody_is_waited_for_and_who_comes_later_joins_at_the_next_step() -> None:
    bench, network = Bench(), Doubler()
    bench.add("first", steps(network, 1.0, 3))
    bench.hub.tick()
    bench.add("second", steps(network, 2.0, 3))
    bench.run()
    assert [name for name, _ in bench.ended] == ["first", "second"]
    assert network.batches == [1, 2, 1, 1, 2, 1]


def test_branches_of_one_request_share_a_forward_and_none_with_others_when_bits_depend_on_the_request_alone() -> None:
    bench, network = Bench(), Doubler()
    for name in ("a", "b"):
        bench.add(name, steps(network, 1.0, 2, branches=2), company=Company.OWN)
    bench.run()
    assert network.batches == [2, 2, 2, 2]


def test_who_wants_no_company_gets_none_from_those_who_do() -> None:
    bench, network = Bench(), Doubler()
    bench.add("exact", steps(network, 1.0, 2, branches=2), company=Company.NONE)
    bench.add("other", steps(network, 2.0, 2), company=Company.ANY)
    bench.add("another", steps(network, 3.0, 2), company=Company.ANY)
    bench.run()
    assert network.batches[:4] == [1, 1, 1, 1]
    assert network.batches[4:] == [2, 1, 1, 2]


def test_no_more_requests_share_a_forward_than_are_allowed() -> None:
    bench, network = Bench(max_requests=2), Doubler()
    for value in range(3):
        bench.add(str(value), steps(network, value))
    bench.run()
    assert max(network.batches) == 2


def test_no_more_tokens_share_a_forward_than_are_allowed_but_one_call_is_made_whatever_its_size() -> None:
    bench, network = Bench(max_tokens=5), Doubler()
    for value in range(2):
        bench.add(str(value), [[call(network, value, shape=(1, 4, 3))]])
    bench.add("large", [[call(network, 9.0, shape=(1, 40, 3))]])
    assert len(bench.run()) == 3
    assert network.batches == [1, 1, 1]


def test_own_branches_stay_together_whatever_room_there_is() -> None:
    bench, network = Bench(max_tokens=1, max_requests=1), Doubler()
    bench.add("guided", steps(network, 1.0, 2, branches=2), company=Company.OWN)
    bench.run()
    assert network.batches == [2, 2]


def test_own_branches_are_never_parted_by_what_happened_before() -> None:
    """A picture's bits would depend on it."""
    full = torch.OutOfMemoryError("full")
    network = Doubler(lambda x: full if x.shape[0] > 2 else None)
    bench = Bench()
    for value in range(4):
        bench.add(f"any {value}", steps(network, value))
    bench.run()
    network.fails = lambda x: full if x.shape[0] > 1 else None
    bench.add("guided", steps(network, 1.0, branches=2), company=Company.OWN)
    name, error = bench.run()[-1]
    assert name == "guided"
    assert isinstance(error, torch.OutOfMemoryError)
    assert "batching.mode Exact" in str(error)


def test_the_first_in_order_leads() -> None:
    bench, network = Bench(), Doubler()
    bench.add("late", steps(network, 1.0, 3), order=2, company=Company.NONE)
    bench.hub.tick()
    bench.add("early", steps(network, 2.0, 3), order=1, company=Company.NONE)
    assert [name for name, _ in bench.run()] == ["early", "late"]


def test_who_is_held_does_nothing_until_it_is_let_go() -> None:
    bench, network = Bench(), Doubler()
    held = bench.add("held", steps(network, 1.0, 2))
    bench.add("other", steps(network, 2.0, 2))
    held.held = True
    assert bench.run() == [("other", [4, 4])]
    assert bench.hub.idle
    held.held = False
    assert bench.run()[1:] == [("held", [2, 2])]


def test_who_is_ended_ends_at_once_and_others_go_on() -> None:
    bench, network = Bench(), Doubler()
    ended = bench.add("ended", steps(network, 1.0, 5))
    bench.add("other", steps(network, 2.0, 2))
    bench.hub.tick()
    stop = Stop()
    bench.hub.end(ended, stop)
    bench.hub.end(ended, Stop())
    assert bench.run() == [("ended", stop), ("other", [4, 4])]


def test_a_forward_that_one_request_breaks_fails_that_one_alone() -> None:
    poison = ValueError("poison")
    network = Doubler(lambda x: poison if (x == 13).any() else None)
    bench = Bench()
    for value in (1.0, 13.0, 2.0):
        bench.add(str(value), steps(network, value, 3))
    assert bench.run() == [("13.0", poison), ("1.0", [2, 2, 2]), ("2.0", [4, 4, 4])]
    # The others still share.
    assert network.batches[-1] == 2


def test_a_batch_for_which_there_is_no_memory_is_halved_and_so_are_those_after_it() -> None:
    full = torch.OutOfMemoryError("full")
    network = Doubler(lambda x: full if x.shape[0] > 2 else None)
    bench = Bench()
    for value in range(4):
        bench.add(str(value), steps(network, value, 3))
    assert [result for _, result in bench.run()] == [[2.0 * value] * 3 for value in range(4)]
    assert network.batches.count(4) == 1
    assert network.batches[-2:] == [2, 2]


def test_one_for_which_there_is_no_memory_fails() -> None:
    full = torch.OutOfMemoryError("full")
    bench = Bench()
    bench.add("large", steps(Doubler(lambda _x: full), 1.0))
    assert bench.run() == [("large", full)]


def test_a_network_that_mixes_samples_is_never_asked_for_several() -> None:
    bench, network = Bench(), Mixer()
    for value in (1.0, 5.0):
        bench.add(str(value), [[Call(network, {"x": torch.full((1, 3), value)}, "x")] for _ in range(3)])
    assert bench.run() == [("1.0", [2, 2, 2]), ("5.0", [10, 10, 10])]
    assert bench.forwards.joined == 0


def test_a_failure_of_a_strand_s_own_is_its_result() -> None:
    bench = Bench()
    error = RuntimeError("own")

    def work(ask: Ask) -> list[float]:
        ask([call(Doubler(), 1.0)])
        raise error

    found: list[BaseException | None] = []
    bench.hub.add(Member(Strand(work), (0,), Company.ANY, lambda member: found.append(member.strand.error)))
    bench.run()
    assert found == [error]


@pytest.mark.parametrize("company", Company)
def test_the_same_order_of_arrival_makes_the_same_forwards(company: Company) -> None:
    def sizes() -> list[int]:
        bench, network = Bench(max_requests=3), Doubler()
        for value in range(5):
            bench.add(str(value), steps(network, value, 1 + value, branches=2), company=company)
            bench.hub.tick()
        bench.run()
        return network.batches

    assert sizes() == sizes()


def test_the_hub_says_what_it_is_at_and_whose_it_is() -> None:
    bench, said = Bench(), list[str]()
    network = Doubler()

    def note(*_: object) -> None:
        doing, _words = bench.hub.underway.seen
        assert doing is not None
        said.append(f"{doing} of {', '.join(doing.tasks)}")

    network.register_forward_pre_hook(note)

    def work(ask: Ask) -> list[float]:
        note()
        for question in steps(network, 1.0):
            ask(question)
            note()
        return []

    for task in ("a", "b"):
        bench.hub.add(Member(Strand(work), (0,), Company.ANY, lambda _: None, task=task, shape="64x64"))
    bench.run()
    shared = next(line for line in said if "a, b" in line)
    assert shared == f"forward ({call(network, 1.0).shape}, 2 at once) of a, b"
    said = [line for line in said if line != shared]
    assert said == [
        "denoising up to its first forward (64x64) of a",
        "denoising up to its first forward (64x64) of b",
        "denoising after a forward (64x64) of a",
        "denoising after a forward (64x64) of b",
    ]
    assert bench.hub.underway.seen[0] is None


def test_the_device_is_waited_for_at_the_first_forwards_of_a_shape() -> None:
    bench, waited = Bench(), list[int]()
    network = Doubler()
    bench.forwards.wait = lambda: waited.append(len(network.batches))  # type: ignore[method-assign]
    bench.add("a", steps(network, 1.0, 10))
    bench.run()
    assert waited == [1, 2, 3]
