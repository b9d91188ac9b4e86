"""The columns of predictions in tables and files, and how often each label was given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from wisesr_cli.data.oddities import Tally
from wisesr_cli.display.grid import Column, Grid, decimal, numbers, percent, score_bar, texts
from wisesr_cli.results.streams import Embedding, Explanation, Prediction
from wisesr_cli.text import joined

PROBABILITY = "probability:"  # before the class name, which may equal that of another column
NO_LABEL, UNREADABLE = "(no label)", "(unreadable)"


@dataclass(frozen=True)
class Layout:
    """What is shown of records: the margin between the best two, and the probability of each of `class_names`.

    `labels`: `set` (the labels of a coverage), `all` (every label of an image that may have several), or None.
    """

    labels: Literal["set", "all"] | None = None
    margin: bool = False  # in output for people; files always have it
    class_names: tuple[str, ...] = ()  # of all classes, where records have `probabilities`

    @property
    def header(self) -> tuple[str, ...]:
        """The columns of CSV and Parquet."""
        labels = ("labels",) if self.labels else ()
        return ("path", "label", "score", "error", "margin", "entropy", *labels, "note", *self.probability_columns)

    @property
    def probability_columns(self) -> tuple[str, ...]:
        """The names of the columns of probabilities."""
        return tuple(f"{PROBABILITY}{name}" for name in self.class_names)

    def values(self, record: Prediction) -> tuple[Any, ...]:
        """Return the value of each column of `header`."""
        labels = (record.labels,) if self.labels else ()
        found = record.probabilities or {}
        return (
            *(record.path, record.label, record.score, record.error, record.margin, record.entropy, *labels),
            *(record.note, *(found.get(name) for name in self.class_names)),
        )


PLAIN = Layout()


def prediction_columns(layout: Layout = PLAIN) -> tuple[Column, ...]:
    """Return the columns of a table of predictions."""
    margin, labels = numbers("margin") if layout.margin else (), texts("labels") if layout.labels == "set" else ()
    if layout.labels == "all":
        return (*texts("image", "labels"), *numbers("best score"), *texts(""), *margin, *texts("next best"))
    return (*texts("image", "label"), *numbers("score"), *texts(""), *margin, *labels, *texts("next best"))


def prediction_cells(prediction: Prediction, layout: Layout = PLAIN) -> tuple[str, ...]:
    """Return the table cells of one prediction."""
    margin = (decimal(prediction.margin, 3),) if layout.margin else ()
    labels = (joined(prediction.labels or ()),) if layout.labels == "set" else ()
    if prediction.error is not None:
        return prediction.path, "-", "-", "", *margin, *labels, f"unreadable: {prediction.error}"
    given = prediction.labels or () if layout.labels == "all" else ()
    others = ", ".join(f"{top.label} {percent(top.score)}" for top in prediction.top[1:3] if top.label not in given[:1])
    others += f" ({prediction.note})" if prediction.note is not None else ""
    score = percent(prediction.score), score_bar(prediction.score)
    label = joined(given) if given else prediction.label or "-"
    return prediction.path, label, *score, *margin, *labels, others


def predictions_grid(predictions: Sequence[Prediction]) -> Grid:
    """Return predictions as one table."""
    return Grid("Predictions", prediction_columns(), tuple(prediction_cells(row) for row in predictions))


class LabelTally(Tally):
    """A tally that also counts each label."""

    def __init__(self, layout: Layout = PLAIN) -> None:
        super().__init__()
        self.has_several = layout.labels == "all"
        self.labels: Counter[str] = Counter()
        self.withheld = 0

    def add(self, record: Prediction | Explanation | Embedding) -> None:
        """Count one record."""
        super().add(record)
        if isinstance(record, Prediction) and record.error is None:
            if record.label is None:
                self.withheld += 1
            elif self.has_several:
                self.labels.update(record.labels or ())
            else:
                self.labels[record.label] += 1

    def grid(self) -> Grid:
        """Return the table of labels, the most frequent first."""
        found = [*sorted(self.labels.items(), key=lambda each: (-each[1], each[0]))]
        found += [(name, count) for name, count in ((NO_LABEL, self.withheld), (UNREADABLE, self.unreadable)) if count]
        rows = tuple((name, f"{count:,}", percent(count / self.records)) for name, count in found)
        return Grid("Labels", (*texts("label"), *numbers("images", "share")), rows)
