"""I13: what may stand still for how long, and that nothing else is ever called a stall."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from diffusion_worker.work.watch import Bounds, Doing, Habits, Part, Seen, Stall, Underway, Watch

BOUNDS = Bounds(multiple=10.0, known=60.0, first=900.0)
INTERVAL = 1.0
FORWARD = Doing("forward", "Net 4x8, 2 at once", ("a", "b"))


class Worker:
    """A worker whose time is the test's. The watchdog looks once a second."""

    def __init__(self) -> None:
        self.now = 0.0
        self.habits = Habits(BOUNDS)
        self.underway = Underway(self.habits, lambda: self.now)
        self.watch = Watch(self.habits, INTERVAL)
        self.computes = True
        self.answers = 0
        self.loop_runs = True

    def look(self) -> Stall | None:
        self.answers += self.loop_runs
        return self.watch.look(self.now, Seen(self.underway.seen, self.computes, self.answers))

    def passes(self, seconds: float) -> Stall | None:
        """The first stall that is found within these seconds."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + INTERVAL)
            if (found := self.look()) is not None:
                return found
        return None

    def does(self, doing: Doing, seconds: float, *, learn: bool = True) -> None:
        self.underway.begin(doing)
        assert self.passes(seconds) is None
        self.underway.end(learn=learn)


def test_what_was_never_done_here_has_the_first_times_bound() -> None:
    worker = Worker()
    worker.underway.begin(FORWARD)
    assert worker.passes(900) is None
    found = worker.passes(5)
    assert found is not None
    assert (found.part, found.tasks) == (Part.STAGE, ("a", "b"))
    assert str(found) == (
        "forward (Net 4x8, 2 at once) stands still for 901 s: it is not known to take any time here yet, and may take "
        "900 s (task a, b)"
    )


def test_what_is_quick_has_the_lower_bound_once_it_was_done_twice() -> None:
    worker = Worker()
    worker.does(FORWARD, 300)
    worker.does(FORWARD, 1)
    worker.underway.begin(FORWARD)
    assert worker.passes(60) is None
    found = worker.passes(5)
    assert found is not None
    assert "is known to take 1 s here, and may take 60 s" in found.message


def test_what_takes_long_may_take_many_times_as_long() -> None:
    worker = Worker()
    for seconds in (100, 100, 80):
        worker.does(FORWARD, seconds)
    worker.underway.begin(FORWARD)
    assert worker.passes(10 * 99) is None
    assert worker.passes(20) is not None


def test_a_first_time_that_took_long_may_take_many_times_as_long_again() -> None:
    worker = Worker()
    worker.does(FORWARD, 200)
    worker.underway.begin(FORWARD)
    assert worker.passes(10 * 200) is None
    assert worker.passes(5) is not None


def test_each_shape_and_kind_of_work_is_known_apart() -> None:
    worker = Worker()
    worker.does(FORWARD, 1)
    worker.does(FORWARD, 1)
    for other in (Doing("forward", "Net 4x16, 2 at once"), Doing("decode", FORWARD.shape)):
        worker.underway.begin(other)
        assert worker.passes(900) is None
        worker.underway.end()


def test_each_step_is_a_word_and_what_is_learnt_is_the_longest_time_without_one() -> None:
    worker = Worker()
    for _ in range(3):
        worker.underway.begin(FORWARD)
        for _ in range(50):
            assert worker.passes(30) is None
            worker.underway.step()
        worker.underway.end()
    assert worker.habits.known(FORWARD) == 30
    worker.underway.begin(FORWARD)
    worker.passes(30)
    worker.underway.step()
    assert worker.passes(300) is None
    assert worker.passes(5) is not None


def test_what_failed_quickly_says_nothing_of_how_long_such_work_takes() -> None:
    worker = Worker()
    worker.does(FORWARD, 100)
    worker.does(FORWARD, 100)
    for _ in range(1000):
        worker.does(FORWARD, 0, learn=False)
    worker.underway.begin(FORWARD)
    assert worker.passes(990) is None


def test_who_has_nothing_to_do_and_what_has_no_bound_may_stand_for_ever() -> None:
    worker = Worker()
    assert worker.passes(10_000) is None
    assert worker.watch.standing == 0
    worker.does(Doing("load", bounded=False), 10_000)
    worker.underway.begin(FORWARD)
    assert worker.passes(900) is None


def test_time_in_which_nobody_looked_does_not_count() -> None:
    """The whole process was stopped, or its machine was: it goes on where it was."""
    worker = Worker()
    worker.underway.begin(FORWARD)
    for _ in range(10):
        assert worker.passes(50) is None
        worker.now += 10_000
    assert worker.passes(300) is None
    assert worker.passes(200) is not None


def test_a_compute_thread_that_ended_is_seen_at_once_with_what_it_was_at() -> None:
    worker = Worker()
    worker.underway.begin(FORWARD)
    assert worker.passes(10) is None
    worker.computes = False
    assert worker.look() == Stall(
        Part.THREAD, "the compute thread ended during forward (Net 4x8, 2 at once)", ("a", "b")
    )
    worker.underway.end()
    assert worker.look() == Stall(Part.THREAD, "the compute thread ended")


def test_an_event_loop_that_does_not_answer_is_seen_and_no_task_is_blamed() -> None:
    worker = Worker()
    worker.underway.begin(FORWARD)
    assert worker.passes(10) is None
    worker.loop_runs = False
    assert worker.passes(60) is None
    found = worker.passes(5)
    assert found == Stall(Part.LOOP, "the event loop has not answered for 61 s; it may take 60 s")


def test_what_waits_for_a_device_may_wait_for_the_longest_forward() -> None:
    worker = Worker()
    after = Doing("denoising after a forward", "64x64")
    for doing in (FORWARD, after):
        worker.does(doing, 0)
        worker.does(doing, 0)
    worker.underway.begin(after)
    assert worker.passes(60) is None
    assert worker.passes(5) is not None
    for _ in range(2):
        worker.does(Doing("forward", "Net 4x4096, 2 at once"), 50)
    for doing in (FORWARD, after):
        worker.underway.begin(doing)
        assert worker.passes(500) is None
        assert worker.passes(5) is not None


def test_what_a_device_goes_on_with_is_waited_for_at_first_and_then_now_and_then() -> None:
    worker = Worker()
    measured = []
    for number in range(1, 200):
        worker.underway.begin(FORWARD)
        if worker.underway.measure():
            measured.append(number)
        worker.underway.end()
    assert measured == [1, 2, 3, 64, 128, 192]


def test_a_message_names_some_tasks_and_counts_the_others() -> None:
    tasks = tuple("abcdefg")
    assert str(Stall(Part.STAGE, "it stands", tasks)) == "it stands (task a, b, c, d and 3 more)"


def test_what_is_known_is_bounded_and_what_was_done_last_is_kept() -> None:
    worker = Worker()
    worker.does(FORWARD, 1)
    for number in range(1000):
        worker.does(Doing("forward", str(number)), 0)
        if number % 100 == 0:
            worker.does(FORWARD, 1)
    assert worker.habits.allowed(FORWARD) == 60
    assert worker.habits.allowed(Doing("forward", "0")) == 900


@given(st.lists(st.floats(0, 30), min_size=2, max_size=60), st.floats(0, 30))
def test_no_history_makes_a_bound_shorter_than_a_multiple_of_what_was_just_seen(
    before: list[float], last: float
) -> None:
    habits = Habits(Bounds(multiple=10, known=1, first=2))
    for seconds in (*before, last):
        bound = habits.allowed(FORWARD)
        habits.learn(FORWARD, seconds)
    assert habits.allowed(FORWARD) >= min(10 * last, bound)
    assert habits.allowed(FORWARD) >= 1
