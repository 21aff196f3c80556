"""Random histories of losses, duplicates, reorderings and restarts; the invariants are checked after every step."""

from __future__ import annotations

import os

from diffusion_router.core import FailureKind, Stage
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from unit.core.world import FAR, Worker, World

_LAYOUTS = st.sampled_from(
    [
        (Stage.ENCODE,),
        (Stage.DENOISE,),
        (Stage.DECODE,),
        (Stage.ENCODE, Stage.DENOISE),
        (Stage.DENOISE, Stage.DECODE),
        (Stage.ENCODE, Stage.DECODE),
        tuple(Stage),
    ]
)
_INDEX = st.integers(0, 7)
_FEW = st.integers(1, 4)
_QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
_PHASES = (Phase.generate, Phase.shrink)


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.generation = 1

    @initialize(split=st.booleans())
    def start(self, split: bool) -> None:
        for layout in [(stage,) for stage in Stage] if split else [tuple(Stage)]:
            self.world.spawn(*layout)
        self.world.submit()

    def pick(self, index: int, *, alive: bool = True) -> Worker | None:
        choice = [worker for worker in self.world.workers if worker.alive is alive]
        return choice[index % len(choice)] if choice else None

    @rule(count=st.integers(1, 3))
    def submit(self, count: int) -> None:
        if len(self.world.store) < 14:
            for _ in range(count):
                self.world.submit()

    @rule(seconds=st.floats(0.5, 20))
    def submit_with_a_deadline(self, seconds: float) -> None:
        self.world.submit(self.world.now + seconds)

    @rule(index=_INDEX)
    def cancel(self, index: int) -> None:
        jobs = [job_id for job_id, job in self.world.store.items() if job.status is None and job.deadline == FAR]
        if jobs:
            self.world.cancel(jobs[index % len(jobs)])

    @precondition(lambda self: sum(worker.alive for worker in self.world.workers) < 9)
    @rule(
        layout=_LAYOUTS, capacity=st.integers(1, 2), slots=st.integers(2, 4), short=st.booleans(), attach=st.booleans()
    )
    def spawn(self, layout: tuple[Stage, ...], capacity: int, slots: int, short: bool, attach: bool) -> None:
        self.world.spawn(
            *layout,
            capacity=capacity,
            slots=slots,
            real_slots=max(slots - 1, 2) if short else slots,
            generation=f"g{self.generation}",
            attach=attach,
        )

    @rule(index=_INDEX, keep=st.integers(0, 3), respawn=st.booleans())
    def kill(self, index: int, keep: int, respawn: bool) -> None:
        worker = self.pick(index)
        if worker is not None:
            self.world.kill(worker, keep)
            if respawn:
                self.respawn(worker)

    @rule(index=_INDEX)
    def replace_a_dead_one(self, index: int) -> None:
        worker = self.pick(index, alive=False)
        names = {other.pod for other in self.world.workers if other.alive}
        if worker is not None and worker.pod not in names:
            self.respawn(worker)

    def respawn(self, worker: Worker) -> None:
        self.world.spawn(
            *worker.stages,
            pod=worker.pod,
            generation=worker.generation,
            capacity=worker.capacity,
            slots=worker.slots,
        )

    @rule(index=_INDEX)
    def freeze_or_thaw(self, index: int) -> None:
        worker = self.pick(index)
        if worker is not None:
            worker.frozen = not worker.frozen

    @rule(index=_INDEX, keep=st.integers(0, 3))
    def cut(self, index: int, keep: int) -> None:
        worker = self.pick(index)
        if worker is not None:
            stream = worker.stream
            self.world.cut(worker, keep)
            if stream is not None and stream.router_open:
                self.world.deliver(stream, keep)

    @rule(index=_INDEX, keep=st.integers(0, 3))
    def cut_and_notice(self, index: int, keep: int) -> None:
        worker = self.pick(index)
        if worker is not None:
            stream = worker.stream
            self.world.cut(worker, keep)
            if stream is not None and stream.router_open:
                self.world.deliver(stream, len(stream.up))

    @rule(index=_INDEX)
    def attach(self, index: int) -> None:
        worker = self.pick(index)
        if worker is not None and worker.acts:
            self.world.attach(worker)

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

    @rule(index=_INDEX)
    def a_report_arrives_again(self, index: int) -> None:
        self.world.deliver_again(index)

    @rule(index=_INDEX, task=_INDEX, times=_FEW)
    def work(self, index: int, task: int, times: int) -> None:
        worker = self.pick(index)
        if worker is not None:
            for _ in range(times):
                self.world.work(worker, task)

    @rule(index=_INDEX, task=_INDEX, kind=st.sampled_from([FailureKind.TRANSFER, FailureKind.MODEL_ERROR]))
    def something_fails(self, index: int, task: int, kind: FailureKind) -> None:
        worker = self.pick(index)
        if worker is not None:
            self.world.fail_task(worker, task, kind)

    @rule(index=_INDEX)
    def drain(self, index: int) -> None:
        worker = self.pick(index)
        if worker is not None and worker.acts and not worker.draining:
            self.world.drain(worker)

    @precondition(lambda self: self.generation < 3)
    @rule()
    def roll_out(self) -> None:
        self.generation += 1

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 2.0, 5.0, 8.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule(rounds=st.integers(1, 4))
    def all_goes_well_for_a_while(self, rounds: int) -> None:
        for _ in range(rounds):
            self.world.run_round()
        self.world.advance(0.1)

    @rule()
    def an_end_is_recorded(self) -> None:
        self.world.record_one()

    @rule()
    def restart_the_router(self) -> None:
        self.world.restart_router()

    def teardown(self) -> None:
        self.world.heal()
        self.world.run(rounds=400)
        self.world.run(rounds=1)
        for _ in range(40):
            self.world.run_round()
            self.world.advance(0.5)
        self.world.check_at_rest()


settings.register_profile("quick", max_examples=150, stateful_step_count=40, derandomize=True)
settings.register_profile("long", max_examples=20_000, stateful_step_count=60)
_base = settings.get_profile("long" if os.environ.get("HYPOTHESIS_PROFILE") == "long" else "quick")

TestHistories = Histories.TestCase
TestHistories.settings = settings(_base, deadline=None, suppress_health_check=_QUIET, phases=_PHASES, database=None)
