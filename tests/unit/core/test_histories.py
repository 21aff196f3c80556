"""Random histories of losses, duplicates, reorderings and restarts; the invariants are checked at every action.

`ledger` checks I1, I3, I4, I11 and that no tensor crosses generations while the history runs. At its end the world is
healed and must come to rest: every accepted job has ended, none failed for losses alone (I6, I7), and every slot and
credit is back. HYPOTHESIS_PROFILE=long runs as long as one likes to wait.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from diffusion_router.core import Adapters, Deadline, FailureKind, Fifo, Priority, SharesSet, Stage
from diffusion_router.core.ordering import Scheduling
from unit.core import workers
from unit.core.workers import STEPS, Worker
from unit.core.world import FAR, POLICY, World

_ROLES = [
    (Stage.ENCODE,),
    (Stage.DENOISE,),
    (Stage.DECODE,),
    (Stage.ENCODE, Stage.DENOISE),
    (Stage.DENOISE, Stage.DECODE),
    (Stage.ENCODE, Stage.DECODE),
    tuple(Stage),
]
_FLEETS = [
    [tuple(Stage)],
    [tuple(Stage)] * 2,
    [(stage,) for stage in Stage],
    [(Stage.ENCODE,), (Stage.DENOISE,), (Stage.DENOISE,), (Stage.DECODE,)],
    [(Stage.ENCODE, Stage.DECODE), (Stage.DENOISE,), (Stage.DENOISE,)],
    [(Stage.ENCODE, Stage.DENOISE), (Stage.ENCODE, Stage.DENOISE), (Stage.DECODE,)],
]
_FAILURES = [FailureKind.TRANSFER, FailureKind.MODEL_ERROR, FailureKind.STALLED]
_ADAPTERS = st.sampled_from(["", "", "", "a", "b", "ab"])
_SCHEDULING = st.sampled_from([Fifo(), Deadline(), Deadline(max_parks=1), Deadline(late_share=2)])
_SHARES = st.sampled_from([0.0, 0.5, 1.0])
_INDEX = st.integers(0, 7)
_SLOTS = st.sampled_from([2, 3, 4, 8])
_FEW = st.integers(1, 4)
_WORKERS = 8
_SOME = st.integers(0, 255)


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.generation = 1
        # What the first workers have in common.
        self.alike: dict[str, object] = {}

    @initialize(
        fleet=st.sampled_from(_FLEETS),
        slots=_SLOTS,
        jobs=_FEW,
        scheduling=_SCHEDULING,
        share=_SHARES,
        seconds=st.sampled_from([1.0, 30.0]),
        checkpoint=st.sampled_from([0.0, 0.1, 1.0]),
    )
    def start(
        self,
        fleet: list[tuple[Stage, ...]],
        slots: int,
        jobs: int,
        scheduling: Scheduling,
        share: float,
        seconds: float,
        checkpoint: float,
    ) -> None:
        self.world = World(replace(POLICY, scheduling=scheduling, checkpoint=checkpoint))
        self.alike = {"slots": slots, "cache_share": share, "seconds": seconds, "adapters": Adapters(frozenset("ab"))}
        self.alike |= {"resumable": True, "copies": True, "checkpoints": True, "keeps_conditioning": True}
        for roles in fleet:
            self.world.spawn(*roles, **self.alike)
        for _ in range(jobs):
            self.world.submit(conditioning="a")

    def pick(self, index: int, *, alive: bool = True) -> Worker | None:
        choice = [worker for worker in self.world.workers if worker.alive is alive]
        return choice[index % len(choice)] if choice else None

    def alive(self) -> int:
        return sum(worker.alive for worker in self.world.workers)

    def one_that_denoises(self, index: int) -> Worker | None:
        """The router knows that it has made a step and has others left, if there is a job that comes so far."""
        for _ in range(8):
            found = [worker for worker in self.world.workers if worker.acts and worker.attached and _denoises(worker)]
            if found:
                self.world.deliver_all()
                return found[index % len(found)]
            self.world.run_round()
        return None

    # ------------------------------------------------------------ clients

    @precondition(lambda self: len(self.world.store) < 14)
    @rule(
        count=_FEW,
        deadline=st.sampled_from([FAR, FAR, FAR, 3.0, 10.0]),
        conditioning=st.sampled_from(["", "a", "b"]),
        adapters=_ADAPTERS,
        batch=st.sampled_from(["a", "a", "b", ""]),
        within=st.sampled_from([0.0, 0.0, 1.0, 20.0]),
        whose=st.sampled_from([(Priority.STANDARD, ""), (Priority.INTERACTIVE, "a"), (Priority.BATCH, "b")]),
    )
    def submit(
        self,
        count: int,
        deadline: float,
        conditioning: str,
        adapters: str,
        batch: str,
        within: float,
        whose: tuple[Priority, str],
    ) -> None:
        priority, tenant = whose
        for _ in range(count):
            until = deadline if deadline == FAR else self.world.now + deadline
            self.world.submit(
                until,
                conditioning=conditioning,
                adapters=adapters,
                batch=batch,
                target=within,
                priority=priority,
                tenant=tenant,
            )

    @rule(index=_INDEX, offered=st.sampled_from(["", "a", "ab", "ab", "ab"]), loaded=_ADAPTERS)
    def adapters_come_and_go(self, index: int, offered: str, loaded: str) -> None:
        worker = self.pick(index)
        if worker is not None and worker.acts:
            worker.offer(*offered, loaded=tuple(loaded))

    @rule(index=_INDEX, sure=st.integers(0, 2))
    def cancel(self, index: int, sure: int) -> None:
        jobs = [job_id for job_id, job in self.world.store.items() if job.status is None and job.deadline == FAR]
        if jobs and not sure:
            self.world.cancel(jobs[index % len(jobs)])

    # ------------------------------------------------------------ what goes as it should

    @rule(who=_SOME, reads=_SOME, heard=_SOME)
    def a_moment(self, who: int, reads: int, heard: int) -> None:
        """Some workers do something, some read their commands, some are heard."""
        for index, worker in enumerate([worker for worker in self.world.workers if worker.alive]):
            bit = 1 << index % 8
            if reads & bit:
                self.world.deliver_down(worker, 5)
            if who & bit:
                for task in range(len(worker.tasks)):
                    self.world.work(worker, task)
            if heard & bit:
                self.world.deliver_up(worker, 5)

    @rule(who=_SOME, reads=_SOME, heard=_SOME)
    def another_moment(self, who: int, reads: int, heard: int) -> None:
        self.a_moment(who, reads, heard)

    @rule(rounds=_FEW)
    def all_goes_well_for_a_while(self, rounds: int) -> None:
        for _ in range(rounds):
            self.world.run_round()
            self.world.advance(0.1)

    @precondition(lambda self: len(self.world.store) < 14)
    @rule(conditioning=st.sampled_from("abc"))
    def one_prompt_comes_again(self, conditioning: str) -> None:
        """When all that was made for the last ones is read, where nothing stands in the way."""
        self.world.run(rounds=12, seconds=0.1)
        self.world.submit(conditioning=conditioning)

    @rule(index=_INDEX, count=_FEW)
    def reports_arrive(self, index: int, count: int) -> None:
        worker = self.pick(index)
        if worker is not None:
            self.world.deliver_up(worker, count)

    @rule(index=_INDEX, count=_FEW)
    def commands_arrive(self, index: int, count: int) -> None:
        worker = self.pick(index)
        if worker is not None:
            self.world.deliver_down(worker, count)

    @rule(index=_INDEX, task=_INDEX, times=_FEW)
    def work(self, index: int, task: int, times: int) -> None:
        worker = self.pick(index)
        if worker is not None:
            for _ in range(times):
                self.world.work(worker, task)

    @rule()
    def an_end_is_recorded(self) -> None:
        self.world.record_one()

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 2.0, 5.0, 8.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    # ------------------------------------------------------------ what goes wrong

    @precondition(lambda self: self.alive() < _WORKERS)
    @rule(
        roles=st.sampled_from(_ROLES),
        capacity=st.integers(1, 2),
        slots=_SLOTS,
        short=st.booleans(),
        offered=_ADAPTERS,
        newer=st.booleans(),
        share=_SHARES,
        bytes_known=st.booleans(),
    )
    def spawn(
        self,
        roles: tuple[Stage, ...],
        capacity: int,
        slots: int,
        short: bool,
        offered: str,
        newer: bool,
        share: float,
        bytes_known: bool,
    ) -> None:
        self.world.spawn(
            *roles,
            capacity=capacity,
            slots=slots,
            real_slots=max(slots - 1, 2) if short else slots,
            generation=f"g{self.generation}",
            adapters=Adapters(frozenset(offered)),
            resumable=newer,
            copies=newer,
            keeps_conditioning=newer,
            checkpoints=newer,
            pool_bytes=3 * slots if bytes_known else 0,
            cache_share=share,
        )

    @rule(index=_INDEX, arrive=st.integers(0, 3), respawn=st.booleans(), uid=st.sampled_from(["", "", "another pod"]))
    def kill(self, index: int, arrive: int, respawn: bool, uid: str) -> None:
        worker = self.pick(index)
        if worker is not None:
            self.world.kill(worker, arrive)
            if respawn:
                self.world.respawn(worker, uid=uid)

    @rule(index=_INDEX, uid=st.sampled_from(["", "another pod"]))
    def replace_one_that_dies_unnoticed(self, index: int, uid: str) -> None:
        """The end of its stream is heard of later, or never."""
        worker = self.pick(index)
        if worker is not None:
            worker.alive = False
            worker.lose_everything()
            self.world.respawn(worker, uid=uid)

    @rule(index=_INDEX)
    def replace_a_dead_one(self, index: int) -> None:
        worker = self.pick(index, alive=False)
        if worker is not None and worker.pod not in {other.pod for other in self.world.workers if other.alive}:
            self.world.respawn(worker)

    @rule(index=_INDEX)
    def freeze_or_thaw(self, index: int) -> None:
        worker = self.pick(index)
        if worker is not None:
            worker.frozen = not worker.frozen

    @rule(index=_INDEX, arrive=st.integers(0, 3), back=st.booleans())
    def cut(self, index: int, arrive: int, back: bool) -> None:
        worker = self.pick(index)
        if worker is not None:
            self.world.cut(worker, arrive)
            if back and worker.acts:
                worker.attach()

    @rule(index=_INDEX)
    def attach_again(self, index: int) -> None:
        worker = self.pick(index)
        if worker is not None and worker.acts:
            self.world.reattach_unnoticed(worker)

    @rule(index=_INDEX)
    def a_report_arrives_again(self, index: int) -> None:
        self.world.deliver_again(index)

    @rule(index=_INDEX, task=_INDEX, kind=st.sampled_from(_FAILURES))
    def something_fails(self, index: int, task: int, kind: FailureKind) -> None:
        worker = self.pick(index)
        if worker is not None:
            self.world.fail_task(worker, task, kind)

    @rule(index=_INDEX)
    def drain(self, index: int) -> None:
        worker = self.pick(index)
        if worker is not None and worker.acts and not worker.draining:
            worker.drain()

    @rule(index=_INDEX, others=st.integers(0, 2), at_once=st.booleans())
    def drain_one_that_denoises(self, index: int, others: int, at_once: bool) -> None:
        """Beside others that could go on with it, as far as there may be more of them."""
        worker = self.one_that_denoises(index)
        if worker is None or worker.draining:
            return
        for _ in range(min(others, _WORKERS - self.alive())):
            self.world.spawn(Stage.DENOISE, generation=worker.generation, **self.alike)
        worker.drain()
        if at_once:
            # It hears that it is to park, and does.
            self.world.deliver_all()
            for task in range(len(worker.tasks)):
                self.world.work(worker, task)

    @precondition(lambda self: len(self.world.store) < 14)
    @rule(index=_INDEX, conditioning=st.sampled_from("ab"), heard=st.booleans())
    def somebody_urgent_comes(self, index: int, conditioning: str, heard: bool) -> None:
        """For whom one gives way that denoises, where the policy has it so."""
        worker = self.one_that_denoises(index)
        self.world.submit(conditioning=conditioning, priority=Priority.INTERACTIVE)
        if worker is not None and heard:
            for _ in range(4):
                self.world.run_round()

    @precondition(lambda self: len(self.world.store) < 14)
    @rule(conditioning=st.sampled_from("ab"), back=st.booleans())
    def no_encoder_is_left(self, conditioning: str, back: bool) -> None:
        """They are told to leave, and somebody comes who encodes as others did."""
        for worker in self.world.workers:
            if worker.acts and Stage.ENCODE in worker.stages and not worker.draining:
                worker.drain()
        self.world.deliver_all()
        self.world.submit(conditioning=conditioning)
        if back and self.alive() < _WORKERS:
            self.world.spawn(Stage.ENCODE, generation=f"g{self.generation}", **self.alike)

    @precondition(lambda self: self.generation < 3)
    @rule()
    def roll_out(self) -> None:
        self.generation += 1

    @rule(percent=st.sampled_from([None, 0, 20, 50, 100]))
    def generations_take_shares(self, percent: int | None) -> None:
        new, old = f"g{self.generation}", f"g{max(1, self.generation - 1)}"
        shares = {} if percent is None else {old: 100 - percent, new: percent} if new != old else {new: 100}
        self.world.tell(SharesSet(shares))

    @rule(again=st.booleans())
    def restart_the_router(self, again: bool) -> None:
        self.world.restart_router()
        if again:
            for worker in self.world.workers[::2]:
                self.world.tend(worker)

    def teardown(self) -> None:
        self.world.heal()
        self.world.run(rounds=400)
        self.world.check_at_rest()


def _denoises(worker: Worker) -> bool:
    return any(
        held.phase is workers.Phase.RUNNING and held.execute.stage is Stage.DENOISE and 0 < held.step < STEPS - 1
        for held in worker.tasks.values()
    )


_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
pytestmark = [pytest.mark.timeout(0)] if _LONG else []
_SIZE = (
    settings(max_examples=20_000, stateful_step_count=60)
    if _LONG
    else settings(max_examples=200, stateful_step_count=40, derandomize=True)
)

TestHistories = Histories.TestCase
TestHistories.settings = settings(
    _SIZE,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
    database=None,
    print_blob=True,
)
