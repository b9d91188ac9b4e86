"""Finds labels that are likely wrong, by confident learning: a ranked table and a contact sheet. No Keras.

Labels are ranked by the probability that a model not trained on them gives them. The number of suspected labels is an
estimate: the number of images for which the model is at least as confident in another class as it is on average for
images with that class's label, and does not find the given label the most likely.

References:
    Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in dataset labels, Journal of Artificial
    Intelligence Research 70 (2021), section 3. cleanlab's `find_label_issues` does the same with
    `filter_by="low_self_confidence"`, except that it also suspects a label that is the most likely class. It is not
    used because it installs scikit-learn, SciPy and pandas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.display.pictures import contact_sheet, photo_tile
from wisesr_cli.evaluation.metrics import Integers, row_blocks
from wisesr_cli.evaluation.probabilities import Doubles, Floats, softmax
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.machine.files import naming, remove
from wisesr_cli.machine.large_arrays import large_array, release
from wisesr_cli.results.evaluation import LabelIssue, LabelIssues
from wisesr_cli.run.names import LABEL_ISSUES, LABEL_ISSUES_SHEET
from wisesr_cli.run.records import write_rows
from wisesr_cli.text import counted

MOST_DRAWN, MOST_SHOWN = 60, 20
HEADER = ("path", "split", "label", "suggested", "score", "suggested_score", "suspected")
_TILE, _COLUMNS = 160, 6
_TOLERANCE = 1e-6  # within which a probability reaches a threshold, or two are equal
_LEAST_THRESHOLD = 2e-6


@dataclass(frozen=True)
class JudgedLabels:
    """Labelled images, and the probabilities from a model that was not trained on them.

    `splits` has the split of each image; `labels` are class indices (images,); `probabilities` is (images, classes).
    """

    root: str
    paths: Sequence[str]
    splits: Sequence[str]
    labels: Integers
    probabilities: Floats


@dataclass(frozen=True)
class Doubts:
    """The evidence against each label: its probability, and that of the most likely class; (images,) each."""

    scores: Doubles
    suggested: Integers
    suggested_scores: Doubles
    suspected: NDArray[np.bool_]


def find_doubts(probabilities: Floats, labels: Integers) -> Doubts:
    """Find suspicious labels, class indices (images,), from probabilities (images, classes).

    The threshold of a class is its mean probability over the images labelled with it. A label counts as wrong if a
    different class reaches its threshold (of several, the most likely class overall) and the label is not the most
    likely class. That many labels are suspected, those of the lowest probability, except any that are the most likely
    class.
    """
    classes, rows = probabilities.shape[1], np.arange(len(labels))
    scores = probabilities[rows, labels].astype(np.float64)
    support = np.bincount(labels, minlength=classes)
    with np.errstate(invalid="ignore"):
        thresholds = np.bincount(labels, weights=scores, minlength=classes) / support
    thresholds = np.where(support > 0, np.maximum(thresholds, _LEAST_THRESHOLD), np.inf)  # (classes,)
    suggested = np.empty(len(labels), np.int64)
    is_likeliest = np.zeros(len(labels), np.bool_)
    wrong = 0
    for block in row_blocks(probabilities):
        values, given = probabilities[block].astype(np.float64), labels[block]
        confident = values >= thresholds - _TOLERANCE
        likeliest = values.argmax(axis=1)
        guess = np.where(confident.sum(axis=1) > 1, likeliest, confident.argmax(axis=1))
        own = values[np.arange(len(given)), given]
        is_likeliest[block] = own + _TOLERANCE >= values.max(axis=1)
        wrong += int((confident.any(axis=1) & (guess != given) & ~is_likeliest[block]).sum())
        suggested[block] = likeliest
    suspected = np.zeros(len(labels), np.bool_)
    suspected[np.argsort(scores, kind="stable")[:wrong]] = True
    suspected &= ~is_likeliest
    return Doubts(scores, suggested, probabilities[rows, suggested].astype(np.float64), suspected)


def put_probabilities(place: NDArray[np.float32], logits: Floats, temperature: float) -> None:
    """Write the softmax of logits at a temperature to `place`; both are (images, classes)."""
    for block in row_blocks(logits):
        place[block] = softmax(logits[block], temperature)
        release(place)


def probabilities_of(logits: Floats, temperature: float) -> NDArray[np.float32]:
    """Return the softmax of logits at a temperature: float32 (images, classes)."""
    found = large_array(logits.shape)
    put_probabilities(found, logits, temperature)
    return found


def write_label_issues(
    folder: Path, judged: JudgedLabels, class_names: Sequence[str], *, preparation: Preparation, pixel_limit: int
) -> LabelIssues:
    """Write all labels, the most doubtful first, and a contact sheet of the suspected ones."""
    doubts = find_doubts(judged.probabilities, judged.labels)
    order = sorted(range(len(judged.paths)), key=lambda image: (doubts.scores[image], judged.paths[image]))

    def issue(image: int) -> LabelIssue:
        return LabelIssue(
            path=judged.paths[image],
            split=judged.splits[image],
            label=class_names[judged.labels[image]],
            suggested=class_names[doubts.suggested[image]],
            score=float(doubts.scores[image]),
            suggested_score=float(doubts.suggested_scores[image]),
            suspected=bool(doubts.suspected[image]),
        )

    table, sheet = folder / LABEL_ISSUES, folder / LABEL_ISSUES_SHEET
    write_rows(table, HEADER, (_cells(issue(image)) for image in order))
    suspected = int(doubts.suspected.sum())
    first = [issue(image) for image in order if doubts.suspected[image]][:MOST_DRAWN]
    if first:
        _draw(sheet, first, judged.root, suspected, preparation, pixel_limit)
    else:
        with naming(sheet):
            remove(sheet)  # of an earlier evaluation
    return LabelIssues(len(order), suspected, tuple(first[:MOST_SHOWN]), str(table), str(sheet) if first else None)


def _cells(issue: LabelIssue) -> tuple[str, ...]:
    return (
        *(issue.path, issue.split, issue.label, issue.suggested),
        *(repr(issue.score), repr(issue.suggested_score), str(issue.suspected).lower()),
    )


def _draw(
    sheet: Path, issues: Sequence[LabelIssue], root: str, suspected: int, preparation: Preparation, pixel_limit: int
) -> None:
    tiles = []
    for issue in issues:
        pixels = photo_tile(f"{root.rstrip('/')}/{issue.path}", _TILE, preparation, pixel_limit=pixel_limit)
        tiles.append((pixels, f"{issue.label} → {issue.suggested}", None))
    foot = (
        f"{len(issues):,} of {counted(suspected, 'label')} likely to be wrong, worst first: given → suggested; "
        f"{LABEL_ISSUES} lists all",
    )
    contact_sheet(tiles, columns=_COLUMNS, tile=_TILE, path=sheet, foot=foot)
