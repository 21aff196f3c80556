"""Of all pipelines no more than so many move at once, and each comes to its turn."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from diffusion_operator.cluster.keys import Key
from diffusion_operator.reconcile.turns import Turns

KEYS = [Key("ns", letter) for letter in "abcd"]
ANY = st.sampled_from(KEYS)


class Fleet(RuleBasedStateMachine):
    """Pipelines that want to move, or no longer do. `due`: those that will ask, at first of their own accord."""

    @initialize(at_once=st.integers(1, 2))
    def begin(self, at_once: int) -> None:
        self.at_once = at_once
        self.due: list[Key] = list(KEYS)
        self.moving: set[Key] = set()
        self.refused: set[Key] = set()
        self.turns = Turns(at_once, self.due.append)

    @precondition(lambda self: self.due)
    @rule(pick=st.integers(0, 3), wants=st.booleans())
    def asks(self, pick: int, wants: bool) -> None:
        key = self.due.pop(pick % len(self.due))
        if key in self.moving or wants:
            self._take(key)
        else:
            self.refused.discard(key)
            self.turns.give_back(key)

    @precondition(lambda self: self.moving)
    @rule()
    def has_moved(self) -> None:
        key = min(self.moving)
        self.moving.remove(key)
        self.turns.give_back(key)

    @rule(key=ANY)
    def is_looked_at(self, key: Key) -> None:
        self.due.append(key)

    @invariant()
    def no_more_than_may(self) -> None:
        if hasattr(self, "turns"):
            assert len(self.moving) <= self.at_once
            assert {key for key in KEYS if self.turns.has(key)} == self.moving

    def teardown(self) -> None:
        """Whoever was refused moves in the end, if each that is woken asks and each that moves comes to its end."""
        if not hasattr(self, "turns"):
            return
        waiting, moved = set(self.refused), set()
        while self.moving or self.due:
            for key in list(self.moving):
                moved.add(key)
                self.moving.remove(key)
                self.turns.give_back(key)
            for key in self.due[:]:
                self.due.remove(key)
                if key in waiting - moved:
                    self._take(key)
                else:
                    self.turns.give_back(key)
        assert waiting <= moved

    def _take(self, key: Key) -> None:
        if self.turns.take(key):
            self.moving.add(key)
            self.refused.discard(key)
        else:
            assert key not in self.moving, "it has its turn"
            self.refused.add(key)


TestFleets = Fleet.TestCase
TestFleets.settings = settings(max_examples=200, stateful_step_count=30)


@given(st.sets(ANY, min_size=1))
def test_turns_of_an_earlier_process_are_kept(moving: set[Key]) -> None:
    woken: list[Key] = []
    turns = Turns(1, woken.append)
    turns.begin(moving)
    other = Key("ns", "z")
    assert not turns.take(other)
    for key in moving:
        assert not woken
        turns.give_back(key)
    assert woken == [other]
    assert turns.take(other)
