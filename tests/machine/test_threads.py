from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisesr_cli.machine import threads
from wisesr_cli.machine.threads import for_each, map_in_batches


def square(number: int) -> int:
    return number * number


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 3))
def test_lists_are_full_but_the_last_and_hold_everything_in_order(count: int, batch_size: int, workers: int) -> None:
    batches = list(map_in_batches(square, range(count), batch_size=batch_size, workers=workers))
    assert [value for batch in batches for value in batch] == [number * number for number in range(count)]
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(batches)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 9))
def test_whatever_is_ready_when_everything_comes_once_and_in_order(answers: list[bool], batch_size: int) -> None:
    rest = iter(answers)
    batches = map_in_batches(square, range(30), batch_size=batch_size, workers=2, ready=lambda: next(rest, True))
    assert [value for batch in batches for value in batch] == [number * number for number in range(30)]


def test_what_is_there_is_given_before_the_next_item_is_waited_for() -> None:
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

    before = threading.active_count()
    batches = map_in_batches(square, items(), batch_size=8, workers=2)
    next(batches)
    assert len(taken) == 12
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert len(taken) == 12
    assert threading.active_count() == before


@pytest.mark.parametrize("where", ["function", "items"])
def test_an_exception_passes_through_and_stops_the_threads(where: str) -> None:
    def items() -> Iterator[int]:
        yield from (3, 2, 1, 0)
        if where == "items":
            raise ZeroDivisionError

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(map_in_batches(lambda number: 6 // number if where == "function" else number, items(), batch_size=2))
    assert threading.active_count() == before


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "worker_count", lambda: 2)


@given(st.integers(0, 40), st.integers(1, 3))
def test_each_item_is_worked_on_once_and_counted(count: int, workers: int) -> None:
    seen: list[int] = []
    told: list[int] = []
    with patch.object(threads, "worker_count", lambda: workers):
        for_each(seen.append, range(count), finished=told.append)
    assert sorted(seen) == list(range(count))
    assert sum(told) == count


@pytest.mark.usefixtures("two_workers")
def test_an_exception_keeps_nothing_alive_that_the_function_holds() -> None:
    class Held:
        def fail(self, _: int) -> None:
            raise ZeroDivisionError

    held = Held()
    reference = weakref.ref(held)
    gc.disable()
    try:
        with suppress(ZeroDivisionError):
            for_each(held.fail, range(3), finished=lambda _: None)
        del held
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.usefixtures("two_workers")
@pytest.mark.parametrize("where", ["function", "finished"])
def test_an_exception_ends_the_work_on_items_not_begun(where: str) -> None:
    begun: list[int] = []

    def work(number: int) -> None:
        begun.append(number)
        time.sleep(0.001)
        if where == "function" and number == 5:
            raise ZeroDivisionError

    def finished(count: int) -> None:
        if where == "finished":
            raise ZeroDivisionError

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        for_each(work, range(10_000), finished=finished)
    assert threading.active_count() == before
    assert len(begun) < 10_000


def threads_at_work(function: Callable[[int], object], count: int) -> list[int]:
    """Return the thread of each item, in the order in which they were finished."""
    names: dict[int, int] = {}
    order: list[int] = []

    def work(number: int) -> None:
        function(number)
        order.append(names.setdefault(threading.get_ident(), len(names)))

    for_each(work, range(count), finished=lambda _: None)
    assert len(order) == count
    return order


def share_of_the_less_busy(order: list[int]) -> float:
    return min(order.count(0), order.count(1)) / len(order)


@pytest.mark.usefixtures("two_workers")
def test_items_that_take_longer_in_two_threads_are_left_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_SMALL_ITEMS", 1)  # however slow this machine is
    lock, last = threading.Lock(), [0]

    def switching_costs(_: int) -> None:
        time.sleep(0.00001)
        with lock:
            time.sleep(0.0001 if last[0] == threading.get_ident() else 0.0008)
            last[0] = threading.get_ident()

    order = threads_at_work(switching_costs, 6000)
    assert len(set(order[-2000:])) == 1


@pytest.mark.usefixtures("two_workers")
def test_items_that_run_side_by_side_keep_all_threads() -> None:
    order = threads_at_work(lambda _: time.sleep(0.0005), 3000)
    assert share_of_the_less_busy(order[-1000:]) > 0.25


@pytest.mark.usefixtures("two_workers")
def test_large_items_keep_all_threads_without_a_trial() -> None:
    order = threads_at_work(lambda _: time.sleep(0.02), 100)
    assert share_of_the_less_busy(order) > 0.4
