"""Very many names are sorted in little memory, and in the order that `sorted` gives."""

from __future__ import annotations

import random

import pytest

from wisesr_cli.data.inputs import RUN, sorted_names


@pytest.mark.parametrize("count", [0, 1, 2, RUN, RUN + 1, 3 * RUN + 7])
def test_names_come_in_the_order_that_sorted_gives(count: int) -> None:
    draw = random.Random(count)
    letters = ["a", "Z", "0", ".", "é", "\U0001f600", "\udcff", "\n", "/"]
    names = ["".join(draw.choices(letters, k=draw.randrange(1, 40))) for _ in range(count)]
    assert list(sorted_names(names)) == sorted(names)


def test_names_are_read_at_once_and_given_one_by_one() -> None:
    names = iter(["b", "a"])
    ordered = sorted_names(names)
    assert next(names, None) is None
    assert next(ordered) == "a"
