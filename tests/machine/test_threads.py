from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisesr_cli.machine.threads import HOLD, Pace, for_each, map_in_batches


def our_threads() -> list[threading.Thread]:
    """Return the threads of this package; other threads, from earlier tests, may end at any time."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("wisesr")]


def square(number: int) -> int:
    return number * number


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 3))
def test_all_batches_but_the_last_are_full_and_hold_every_result_in_order(
    count: int, batch_size: int, workers: int
) -> None:
    batches = list(map_in_batches(square, range(count), batch_size=batch_size, workers=workers))
    assert [value for batch in batches for value in batch] == [number * number for number in range(count)]
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(batches)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 9))
def test_every_result_comes_once_and_in_order_whenever_the_next_item_is_ready(
    answers: list[bool], batch_size: int
) -> None:
    rest = iter(answers)
    batches = map_in_batches(square, range(30), batch_size=batch_size, workers=2, ready=lambda: next(rest, True))
    assert [value for batch in batches for value in batch] == [number * number for number in range(30)]


def test_finished_results_are_returned_before_waiting_for_the_next_item() -> None:
    asked: list[int] = []

    def slow() -> Iterator[int]:
        for number in range(5):
            asked.append(number)
            yield number

    batches = map_in_batches(square, slow(), batch_size=4, workers=1, ready=lambda: len(asked) != 3)
    assert next(batches) == [0, 1, 4]
    assert asked == [0, 1, 2]
    assert list(batches) == [[9, 16]]


def test_items_are_taken_only_a_little_ahead_and_closing_early_stops_the_threads() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1_000):
            taken.append(number)
            yield number

    before = len(our_threads())
    batches = map_in_batches(square, items(), batch_size=8, workers=2)
    next(batches)
    assert len(taken) == 12
    assert len(our_threads()) > before
    batches.close()  # type: ignore[attr-defined]
    assert len(taken) == 12
    assert len(our_threads()) == before


@pytest.mark.parametrize("where", ["function", "items"])
def test_an_exception_propagates_and_stops_the_threads(where: str) -> None:
    def items() -> Iterator[int]:
        yield from (3, 2, 1, 0)
        if where == "items":
            raise ZeroDivisionError

    before = len(our_threads())
    with pytest.raises(ZeroDivisionError):
        list(map_in_batches(lambda number: 6 // number if where == "function" else number, items(), batch_size=2))
    assert len(our_threads()) == before


@given(st.integers(0, 40), st.integers(1, 3))
def test_each_item_is_processed_once_and_counted(count: int, workers: int) -> None:
    seen: list[int] = []
    told: list[int] = []
    for_each(seen.append, range(count), workers=workers, finished=told.append)
    assert sorted(seen) == list(range(count))
    assert sum(told) == count


def test_an_exception_keeps_no_object_of_the_function_alive() -> None:
    class Held:
        def fail(self, _: int) -> None:
            raise ZeroDivisionError

    held = Held()
    reference = weakref.ref(held)
    gc.disable()
    try:
        with suppress(ZeroDivisionError):
            for_each(held.fail, range(3), workers=2, finished=lambda _: None)
        del held
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("where", ["function", "finished"])
def test_an_exception_cancels_the_items_not_yet_started(where: str) -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.001)
        if where == "function" and number == 5:
            raise ZeroDivisionError

    def finished(count: int) -> None:
        if where == "finished":
            raise ZeroDivisionError

    before = len(our_threads())
    with pytest.raises(ZeroDivisionError):
        for_each(work, range(10_000), workers=2, finished=finished)
    assert len(our_threads()) == before
    assert len(begun) < 10_000


class Clock:
    """Simulates threads that report their progress to a pace every tenth of a second."""

    def __init__(self) -> None:
        self.pace, self.now, self.finished, self.computed = Pace(2), 0.0, 0.0, 0.0
        self.pace.report(0.0, 0, 0.0)

    def run(self, seconds: float, *, together: float, alone: float, processors: float = 1.3) -> float:
        """Advance time at these items per second; return the share of it in which one thread worked alone.

        Together, the two threads use `processors` processors.
        """
        lone, steps = 0, round(seconds * 10)
        for _ in range(steps):
            lone += self.pace.is_alone
            self.finished += (alone if self.pace.is_alone else together) / 10
            self.computed += (1 if self.pace.is_alone else processors) / 10
            self.now += 0.1
            self.pace.report(self.now, int(self.finished), self.computed)
        return lone / steps


def test_one_thread_works_alone_if_it_finishes_more() -> None:
    clock = Clock()
    assert clock.run(HOLD, together=6_000, alone=10_000) > 0.9
    assert clock.run(60, together=6_000, alone=10_000) > 0.95


def test_all_threads_work_if_they_finish_more() -> None:
    clock = Clock()
    assert clock.run(HOLD, together=40_000, alone=10_000) < 0.1
    assert clock.run(60, together=40_000, alone=10_000) < 0.03


def test_large_items_are_never_left_to_one_thread() -> None:
    assert Clock().run(60, together=900, alone=950) == 0


def test_threads_that_compute_nearly_all_the_time_are_never_stopped_for_a_trial() -> None:
    assert Clock().run(60, together=6_000, alone=5_000, processors=1.6) == 0
    assert Clock().run(60, together=6_000, alone=5_000, processors=1.4) > 0


def test_the_decision_is_revised_when_other_items_follow() -> None:
    clock = Clock()
    assert clock.run(HOLD, together=6_000, alone=10_000) > 0.9
    clock.run(HOLD, together=40_000, alone=5_000)
    assert clock.run(2 * HOLD, together=40_000, alone=5_000) < 0.05
    clock.run(4 * HOLD, together=6_000, alone=10_000)
    assert clock.run(2 * HOLD, together=6_000, alone=10_000) > 0.9


def test_large_items_after_many_small_ones_are_not_left_to_one_thread() -> None:
    clock = Clock()
    assert clock.run(400, together=6_000, alone=10_000) > 0.95
    assert clock.run(5, together=900, alone=75) < 0.2


def test_a_waiting_thread_continues_when_the_work_has_ended() -> None:
    clock = Clock()
    clock.run(HOLD, together=6_000, alone=10_000)
    waiting = threading.Thread(target=clock.pace.may_go_on)
    waiting.start()
    clock.pace.release()
    waiting.join(timeout=10)
    assert not waiting.is_alive()
    clock.run(60, together=6_000, alone=10_000)
    assert not clock.pace.is_alone


@pytest.mark.parametrize("where", ["function", "finished", "nowhere"])
def test_work_ends_while_threads_wait(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    is_alone = threading.Event()

    def report(pace: Pace, now: float, finished: int, computed: float) -> None:
        with pace._lock:
            if not pace._is_over:
                pace._others.clear()
        is_alone.set()

    def work(number: int) -> None:
        time.sleep(0.001)
        if where == "function" and is_alone.is_set():
            raise ZeroDivisionError

    def finished(count: int) -> None:
        if where == "finished" and is_alone.is_set():
            raise ZeroDivisionError

    monkeypatch.setattr(Pace, "report", report)
    with suppress(ZeroDivisionError) if where == "nowhere" else pytest.raises(ZeroDivisionError):
        for_each(work, range(600 if where == "nowhere" else 100_000), workers=3, finished=finished)
    assert is_alone.is_set()
