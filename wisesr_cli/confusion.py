"""The confusion matrix of an evaluation; its size grows with the images, not with pairs of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

MOST_DENSE = 200  # classes up to which files hold every cell of the matrix; for more, only nonzero ones


@dataclass(frozen=True)
class Confusion:
    """How many examples of each class were predicted as each class; classes are indices.

    `cells` are (truth, predicted, count), in order, without zero counts.
    """

    classes: int
    cells: tuple[tuple[int, int, int], ...]

    @property
    def is_dense(self) -> bool:
        """Whether files hold every cell of the matrix."""
        return self.classes <= MOST_DENSE

    @property
    def mistakes(self) -> int:
        """The number of examples that were predicted as another class."""
        return sum(count for truth, predicted, count in self.cells if truth != predicted)

    @property
    def predicted(self) -> list[int]:
        """How often each class was predicted."""
        totals = [0] * self.classes
        for _, predicted, count in self.cells:
            totals[predicted] += count
        return totals

    def most_confused(self, limit: int) -> list[int]:
        """Return the classes most often confused with others, in either direction, in class order."""
        mistakes = [0] * self.classes
        for truth, predicted, count in self.cells:
            if truth != predicted:
                mistakes[truth] += count
                mistakes[predicted] += count
        return sorted(sorted(range(self.classes), key=lambda label: -mistakes[label])[:limit])

    def part(self, labels: Sequence[int]) -> list[list[int]]:
        """Return the matrix of some classes, including zeros: (labels, labels), rows are the truth."""
        places = {label: place for place, label in enumerate(labels)}
        rows = [[0] * len(labels) for _ in labels]
        for truth, predicted, count in self.cells:
            if truth in places and predicted in places:
                rows[places[truth]][places[predicted]] = count
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `metrics.json`: the whole matrix, or, for many classes, null and the cells."""
        if self.is_dense:
            return {"confusion_matrix": self.part(range(self.classes))}
        return {"confusion_matrix": None, "confusion_cells": [list(cell) for cell in self.cells]}


class HasConfusion:
    """Mixin for a frozen record with a `confusion` field; in its JSON, the fields of the matrix replace that field."""

    confusion: Confusion

    @property
    def confusion_matrix(self) -> tuple[tuple[int, ...], ...]:
        """Every cell of the confusion matrix: (classes, classes), rows are the truth."""
        return tuple(map(tuple, self.confusion.part(range(self.confusion.classes))))

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr evaluate --format json` and of metrics.json."""
        fields: dict[str, Any] = {}
        for name, value in asdict(self).items():  # type: ignore[call-overload]
            fields |= self.confusion.to_json() if name == "confusion" else {name: value}
        return fields
