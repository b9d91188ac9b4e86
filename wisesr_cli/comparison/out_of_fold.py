"""Predictions for held-out folds: kept by every training, joined into one table, and used to find label issues.

out_of_fold.csv   a row per head, seed and image, predicted by the training that held it out
out_of_fold.npz   `probabilities`: float32 (rows of the table, classes); `classes`: their names
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.comparison.figures import evaluation_of
from wisesr_cli.comparison.plan import ComparisonPlan, PlannedTraining
from wisesr_cli.comparison.state import ComparisonState, TrainingRecord
from wisesr_cli.data.folds import check_folds
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.errors import RunError
from wisesr_cli.evaluation.evaluate import Evaluated
from wisesr_cli.evaluation.label_issues import JudgedLabels, probabilities_of, write_label_issues
from wisesr_cli.machine.files import replacing
from wisesr_cli.machine.large_arrays import large_array
from wisesr_cli.results.evaluation import LabelIssues
from wisesr_cli.run.names import OUT_OF_FOLD, OUT_OF_FOLD_PROBABILITIES, PREDICTIONS, PROBABILITIES
from wisesr_cli.run.records import read_rows, refuse_link_outside, write_rows
from wisesr_cli.run.run import Run
from wisesr_cli.text import counted, visible

HEADER = ("head", "seed", "fold", "path", "truth", "predicted", "score", "truth_score")


@dataclass(frozen=True)
class HeldOut:
    """A training's predictions for the fold that it held out: the rows of predictions.csv, and their folder."""

    training: PlannedTraining
    folder: Path
    rows: list[list[str]]

    def probabilities(self) -> NDArray[np.float32]:
        """Return the probabilities of the rows, (rows, classes), mapped from the disk; `RunError` when damaged."""
        return _read_probabilities(self.folder / PROBABILITIES, len(self.rows))


def describe_folds(plan: ComparisonPlan, index: DatasetIndex) -> str:
    """Describe what is held out and what is not used, after checking that every fold is possible.

    Raises a `DataError` if a fold would be empty, or would leave too few images to train on.
    """
    data = plan.base.config.data
    images = check_folds(data, index, plan.seeds)
    kind = "whole groups" if data.split_strategy == "group" or index.splits["train"].groups else data.split_strategy
    best = "the last epoch is used"
    if "validation" in index.splits:
        source = "validation images" if "validation" in index.folders else "images set aside from the other folds"
        best = f"the best epoch is chosen on {source}"
    return (
        f"{plan.folds} folds of {counted(images, 'training image')} ({kind}), each held out once and evaluated on; "
        f"{best}" + ("; the test images are not used" if "test" in index.folders else "")
    )


def keep_probabilities(evaluated: Evaluated, folder: Path) -> None:
    """Write the probabilities of all classes next to the predictions: float32 (images, classes)."""
    with replacing(folder / PROBABILITIES) as temporary, temporary.open("wb") as file:
        np.save(file, probabilities_of(evaluated.logits, evaluated.info.temperature))


def has_probabilities(run: Run, split: str, record: TrainingRecord) -> bool:
    """Return whether the probabilities from `keep_probabilities` are there."""
    folder = evaluation_of(run, split, record)
    try:
        _read_probabilities(folder / PROBABILITIES, len(read_rows(folder / PREDICTIONS, 6)))
    except RunError:
        return False
    return True


def read_held_out(folder: Run, planned: Sequence[PlannedTraining], state: ComparisonState, split: str) -> list[HeldOut]:
    """Return the predictions of each training with a result, the folds of one head and seed in succession."""
    found = []
    for item in planned:
        record = state.record(item.run)
        if record.is_done:
            place = evaluation_of(Run(folder.path / item.run), split, record)
            found.append(HeldOut(item, place, read_rows(place / PREDICTIONS, 6)))
    heads = list(dict.fromkeys(item.head for item in planned))
    return sorted(found, key=lambda item: (heads.index(item.training.head), item.training.seed))


def write_out_of_fold(folder: Path, held_out: Sequence[HeldOut], class_names: Sequence[str]) -> None:
    """Write the predictions of all trainings as one table, and their probabilities next to it."""

    def rows() -> Iterator[Sequence[str]]:
        for item in held_out:
            of = item.training
            yield from ((of.head, str(of.seed), str(of.fold), *row[:5]) for row in item.rows)

    write_rows(folder / OUT_OF_FOLD, HEADER, rows())
    shape = (sum(len(item.rows) for item in held_out), len(class_names))
    with (
        replacing(folder / OUT_OF_FOLD_PROBABILITIES) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        with _member(archive, "classes") as file:
            np.lib.format.write_array(file, np.array(class_names, np.str_), allow_pickle=False)
        with _member(archive, "probabilities") as file:  # in parts, as they may be larger than memory
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, header)
            for item in held_out:
                file.write(np.ascontiguousarray(item.probabilities(), "<f4").tobytes())


def doubt_labels(
    folder: Path, held_out: Sequence[HeldOut], index: DatasetIndex, data: DataConfig
) -> LabelIssues | None:
    """Write which labels are likely wrong, by the mean probabilities over heads and seeds; None without predictions.

    No training has seen the labels that its predictions are used to question.
    """
    places: dict[str, int] = {}
    labels: list[int] = []
    known = {name: label for label, name in enumerate(index.class_names)}
    for item in held_out:
        for path, truth, *_ in item.rows:
            if path not in places:
                places[path] = len(places)
                labels.append(known[truth])
    if not places:
        return None
    sums, counts = large_array((len(places), len(known))), np.zeros(len(places), np.int64)
    sums[:] = 0
    for item in held_out:
        rows = np.array([places[row[0]] for row in item.rows], np.intp)  # each once
        sums[rows] += item.probabilities()
        counts[rows] += 1
    sums /= counts[:, None].astype(np.float32)
    judged = JudgedLabels(index.root, list(places), ["train"] * len(places), np.array(labels, np.int64), sums)
    return write_label_issues(
        folder, judged, index.class_names, preparation=data.preparation, pixel_limit=data.pixel_limit
    )


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    """Open a member of an archive for writing, without a timestamp, so that equal values give equal bytes."""
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = zipfile.ZIP_DEFLATED
    return archive.open(entry, "w", force_zip64=True)


def _read_probabilities(path: Path, rows: int) -> NDArray[np.float32]:
    refuse_link_outside(path)
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"{visible(path)}: cannot be read: {visible(error)}") from None
    if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.ndim != 2 or len(found) != rows:
        raise RunError(f"{visible(path)}: damaged: not the probabilities of {counted(rows, 'image')}")
    return found
