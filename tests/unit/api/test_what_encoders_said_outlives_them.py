"""Requests are told apart by what the encoders of a generation said, while anybody of it may keep what they made."""

from __future__ import annotations

from types import SimpleNamespace

from diffusion_router.peers.conditioning import Conditionings, key
from diffusionpipeline.v1 import peer_pb2, stage_pb2

ASKED = stage_pb2.JobParameters(prompt="a red seven", guidance_scale=3.0, seed=1)


class Fleet:
    """Stands for the dispatcher and the sessions."""

    def __init__(self) -> None:
        self.core = SimpleNamespace(peers={}, revision=0)
        self.registers: dict[str, peer_pb2.Register] = {}
        self.conditionings = Conditionings(self)
        self.conditionings.watch(self)

    def session(self, incarnation: str) -> SimpleNamespace | None:
        register = self.registers.get(incarnation)
        return register and SimpleNamespace(register=register)

    def come(self, name: str, role: stage_pb2.Role.ValueType, generation: str, *reads: str) -> None:
        workflow = peer_pb2.Workflow(encodes_apart=bool(reads), encoding_reads=reads)
        self.registers[name] = peer_pb2.Register(incarnation=name, roles=[role], workflows=[workflow])
        self.core.peers[name] = SimpleNamespace(incarnation=name, generation=generation)
        self.core.revision += 1

    def go(self, name: str) -> None:
        del self.core.peers[name], self.registers[name]
        self.core.revision += 1

    def key(self) -> str:
        return self.conditionings.key(ASKED)


def test_it_holds_while_a_worker_of_its_generation_is_there() -> None:
    fleet = Fleet()
    assert not fleet.key()
    fleet.come("e", stage_pb2.ROLE_ENCODER, "g1", "prompt")
    fleet.come("d", stage_pb2.ROLE_DENOISER, "g1")
    before = fleet.key()
    assert before == key(ASKED, frozenset(["prompt"]))
    fleet.go("e")
    assert fleet.key() == before
    fleet.go("d")
    assert not fleet.key()


def test_what_an_older_generation_reads_counts_as_long_as_it_may_keep_what_it_made() -> None:
    """Else a request might be served what was encoded with another guidance, which the new encoders do not read."""
    fleet = Fleet()
    fleet.come("e1", stage_pb2.ROLE_ENCODER, "g1", "prompt", "guidance_scale")
    fleet.come("d1", stage_pb2.ROLE_DENOISER, "g1")
    assert fleet.key()
    fleet.go("e1")
    fleet.come("e2", stage_pb2.ROLE_ENCODER, "g2", "prompt")
    assert fleet.key() == key(ASKED, frozenset(["prompt", "guidance_scale"]))
    fleet.go("d1")
    assert fleet.key() == key(ASKED, frozenset(["prompt"]))


def test_a_generations_encoders_that_are_here_say_it_anew() -> None:
    fleet = Fleet()
    fleet.come("e1", stage_pb2.ROLE_ENCODER, "g1", "prompt")
    fleet.come("d1", stage_pb2.ROLE_DENOISER, "g1")
    assert fleet.key()
    fleet.go("e1")
    fleet.come("e2", stage_pb2.ROLE_ENCODER, "g1")
    assert not fleet.key(), "it encodes nothing apart"
