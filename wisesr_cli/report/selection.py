"""Selects the images of a report: the worst mistakes, some right answers of every class, and others that fit.

NumPy only. A report can be mailed, so its content is limited in bytes, not in the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from wisesr_cli.evaluation.metrics import Answers
from wisesr_cli.report.records import Example
from wisesr_cli.results.evaluation import Mistake
from wisesr_cli.text import visible

MOST_MISTAKES = 60  # cards, each with two maps
MOST_RIGHT = 200  # two for each of a hundred classes
MISTAKES_PER_RIGHT = 4
ENTRY_BYTES = 40  # of a listed image in addition to its path: labels, scores, punctuation


def examples_of(paths: Sequence[str], answers: Answers) -> list[Example]:
    """Return the answer to every image, in order."""
    arrays = (answers.labels, answers.predicted, answers.scores, answers.truth_scores)
    rows = zip(paths, *(array.tolist() for array in arrays), strict=True)
    return [Example(position, *row) for position, row in enumerate(rows)]


def choose_mistakes(examples: Iterable[Example], worst: Sequence[Mistake]) -> list[Example]:
    """Return the worst mistakes, then the worst one of every class without any among them."""
    wrong = sorted((row for row in examples if not row.is_right), key=lambda row: (-row.score, row.path))
    named = {mistake.path for mistake in worst}
    chosen = [row for row in wrong if row.path in named]
    classes = {row.truth for row in chosen}
    for row in wrong:
        if row.truth not in classes:
            classes.add(row.truth)
            chosen.append(row)
    return chosen[:MOST_MISTAKES]


def choose_right(examples: Iterable[Example]) -> list[Example]:
    """Return the most confident right answer of every class, then the least confident ones; at most `MOST_RIGHT`."""
    right: dict[int, list[Example]] = {}
    for row in sorted((row for row in examples if row.is_right), key=lambda row: (row.truth, -row.score, row.path)):
        right.setdefault(row.truth, []).append(row)
    most_sure = [rows[0] for rows in right.values()]
    least_sure = [rows[-1] for rows in right.values() if len(rows) > 1]
    return [*most_sure, *least_sure][:MOST_RIGHT]


def listed_bytes(example: Example) -> int:
    """Return the approximate number of bytes that an image's list entry takes in the page."""
    return len(visible(example.path).encode()) + ENTRY_BYTES


def choose_listed(examples: Sequence[Example], most_bytes: int) -> list[Example]:
    """Return the images to list, the most important first, within `most_bytes`.

    The most confident image of every cell of the confusion matrix comes before the second one of any, so that no cell
    is empty because another is full; a cell of right answers gets one image for every `MISTAKES_PER_RIGHT` in a cell of
    mistakes.
    """
    ordered = sorted(examples, key=lambda row: (-row.score, row.path))
    seen: dict[tuple[int, int], int] = {}
    ranked = []
    for row in ordered:
        rank = seen.get((row.truth, row.predicted), 0)
        seen[row.truth, row.predicted] = rank + 1
        ranked.append((rank * MISTAKES_PER_RIGHT if row.is_right else rank, row.is_right, row))
    ranked.sort(key=lambda item: item[:2])  # stable: among equals, the most confident comes first
    sizes = np.cumsum([listed_bytes(row) for *_, row in ranked])
    return [row for *_, row in ranked[: int(np.searchsorted(sizes, most_bytes, side="right"))]]
