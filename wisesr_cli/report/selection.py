"""Which images a report shows: the worst mistakes, some right answers of every class, the rest while there is room.

NumPy only. A report is made to be mailed: what it holds is bounded by bytes, not by the number of images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from wisesr_cli.evaluation.evaluate import Answers
from wisesr_cli.report.records import Example
from wisesr_cli.results import Mistake
from wisesr_cli.text import visible

MOST_MISTAKES = 60  # cards, each with two maps
MOST_RIGHT = 200  # of a hundred classes, two
MISTAKES_PER_RIGHT = 4
ENTRY_BYTES = 40  # of a listed image beside its path: labels, scores, punctuation


def examples_of(answers: Answers) -> list[Example]:
    """Return the answer to every image, in order."""
    predicted = answers.probabilities.argmax(axis=1)
    positions = np.arange(len(predicted))
    columns = (
        answers.labels.tolist(),
        predicted.tolist(),
        answers.probabilities[positions, predicted].tolist(),
        answers.probabilities[positions, answers.labels].tolist(),
    )
    return [
        Example(position, path, *row) for position, (path, *row) in enumerate(zip(answers.paths, *columns, strict=True))
    ]


def choose_mistakes(examples: Iterable[Example], worst: Sequence[Mistake]) -> list[Example]:
    """Return the worst mistakes, then the worst one of every class that has none among them."""
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
    """Return the surest right answer of every class, then the least sure one of every class; a bounded number."""
    right: dict[int, list[Example]] = {}
    for row in sorted((row for row in examples if row.is_right), key=lambda row: (row.truth, -row.score, row.path)):
        right.setdefault(row.truth, []).append(row)
    surest = [rows[0] for rows in right.values()]
    least_sure = [rows[-1] for rows in right.values() if len(rows) > 1]
    return [*surest, *least_sure][:MOST_RIGHT]


def listed_bytes(example: Example) -> int:
    """Return about how many bytes it takes to name an image in the page."""
    return len(visible(example.path).encode()) + ENTRY_BYTES


def choose_listed(examples: Sequence[Example], most_bytes: int) -> list[Example]:
    """Return the images that are named, the most important first, as many as `most_bytes` hold.

    The surest image of every cell of the confusion matrix comes before the second one of any, so that no cell stays
    empty because another is full; of right answers there is one for `MISTAKES_PER_RIGHT` of a cell of mistakes.
    """
    ordered = sorted(examples, key=lambda row: (-row.score, row.path))
    seen: dict[tuple[int, int], int] = {}
    ranked = []
    for row in ordered:
        rank = seen.get((row.truth, row.predicted), 0)
        seen[row.truth, row.predicted] = rank + 1
        ranked.append((rank * MISTAKES_PER_RIGHT if row.is_right else rank, row.is_right, row))
    ranked.sort(key=lambda item: item[:2])  # stable: the surest first among equals
    sizes = np.cumsum([listed_bytes(row) for *_, row in ranked])
    return [row for *_, row in ranked[: int(np.searchsorted(sizes, most_bytes, side="right"))]]
