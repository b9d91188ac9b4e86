"""What the files of a run directory are called, and how its records and tables are written and read. No Keras.

Only here stand the names of files that wisesr writes into a run, an evaluation, an explanation or a comparison.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wisesr_cli.errors import RunError
from wisesr_cli.files import TEMPORARY_PREFIX, read_text, replacing, write_text
from wisesr_cli.model_info import MODEL_INFO
from wisesr_cli.text import csv_cell, parse_csv_cell, visible

BEST = "best.keras"
LITERT = "best.tflite"
UPGRADED = "upgraded.keras"  # what `wisesr upgrade` made, and fine-tuning starts from
CONFIG = "config.yaml"
CLASSES = "classes.json"
SPLITS = "splits.csv"
ENVIRONMENT = "environment.json"
HISTORY = "history.csv"
METRICS = "metrics.json"
TRACKED = "trackers.json"  # which runs of experiment trackers it is
STATE = "state"
PLOTS = "plots"
TENSORBOARD = "tensorboard"
LOCK = ".lock"

MOST_TABLE_BYTES = 1 << 30  # splits.csv of ten million images
MOST_JSON_BYTES = 1 << 26

# In the folder of an evaluation, beside its metrics.
PER_CLASS = "per_class.csv"
CONFUSION_MATRIX = "confusion_matrix.csv"
PREDICTIONS = "predictions.csv"
EVALUATION_FILES = (METRICS, PER_CLASS, CONFUSION_MATRIX, PREDICTIONS)
REPORT = "report.html"  # only where it was asked for

# In the folder of explanations, `EXPLAIN` unless another one is given.
EXPLAIN = "explain"
CONTRIBUTIONS = "contributions.npz"
EXPLANATIONS = "explanations.json"
EXPLANATIONS_TABLE = "explanations.csv"
EXPLAINED_PICTURE = "image-{:05}-{}.png"  # number and name of the image
EXPLAINED_SHEET = "contact_sheet-{:03}.png"
WEIGHTS_PICTURE = "weights.png"
WEIGHTS_NUMBERS = "weights.npz"
EXPLAINED_PATTERNS = (f"image-{'[0-9]' * 5}*-*.png", f"contact_sheet-{'[0-9]' * 3}*.png")
EXPLANATION_FILES = (CONTRIBUTIONS, EXPLANATIONS, EXPLANATIONS_TABLE, WEIGHTS_PICTURE, WEIGHTS_NUMBERS)

# In the folder of exports, `EXPORT` unless another one is given.
EXPORT = "export"
EXPORT_RECORD = "export.json"
EXPORT_README = "README.md"
LABELS = "labels.txt"
EXPORTED_MODELS = {
    ("keras", None): "model.keras",
    ("onnx", None): "model.onnx",
    ("litert", None): "model.tflite",
    ("litert", "int8"): "model-int8.tflite",
    ("litert", "float16"): "model-float16.tflite",
    ("saved_model", None): "saved_model",
}
SAVED_MODEL_EXTRAS = "assets.extra"  # where TensorFlow leaves room for files of others
SAVED_MODEL_FILES = (
    *("saved_model.pb", "fingerprint.pb", "variables/variables.index", "variables/variables.data-*"),
    *(f"{SAVED_MODEL_EXTRAS}/{name}" for name in (MODEL_INFO, LABELS)),
)
SAVED_MODEL_FOLDERS = ("variables", "assets", SAVED_MODEL_EXTRAS)
EXPORT_FILES = (*(name for name in EXPORTED_MODELS.values() if "." in name), LABELS, EXPORT_README, EXPORT_RECORD)

# In the folder of a comparison, beside a run directory for every head and seed; the first with its first training.
TRAININGS = "trainings.json"
COMPARISON = "comparison.json"
COMPARISON_TABLE = "comparison.csv"
COMPARISON_TEXT = "comparison.md"
COMPARISON_FILES = (COMPARISON, COMPARISON_TABLE, COMPARISON_TEXT)
ACCURACY_PICTURE = "accuracy.png"

# In the folder of plots. Those with a gap, for what was evaluated, come with each evaluation.
LEARNING_CURVES = "learning_curves.png"
CONFUSION_PICTURE = "confusion_matrix-{}.png"
RELIABILITY_PICTURE = "reliability-{}.png"
EVALUATION_PICTURES = (CONFUSION_PICTURE, RELIABILITY_PICTURE)

LEFTOVERS = tuple(
    f"{folder}{TEMPORARY_PREFIX}*" for folder in ("", f"{PLOTS}/", f"{EXPLAIN}/", f"{EXPORT}/", "evaluate-*/")
)

# What `--overwrite` takes away; whatever else lies in a run directory is the user's. The classes go last: with them a
# folder is known to be a run, in which another process may take away what a killed one did not come to.
OUR_STATES = (f"{STATE}/epoch-{'[0-9]' * 6}*", f"{STATE}/{TEMPORARY_PREFIX}*")
OUR_FILES = (
    *(f"{PLOTS}/{name}" for name in (LEARNING_CURVES, *(name.format("*") for name in EVALUATION_PICTURES))),
    f"{TENSORBOARD}/**/events.out.tfevents.*",
    *(f"evaluate-*/{name}" for name in (*EVALUATION_FILES, REPORT)),
    *(f"{EXPLAIN}/{name}" for name in (*EXPLANATION_FILES, *EXPLAINED_PATTERNS)),
    *(f"{EXPORT}/{name}" for name in (*(f"saved_model/{name}" for name in SAVED_MODEL_FILES), *EXPORT_FILES)),
    *(LITERT, BEST, UPGRADED, CONFIG, SPLITS, ENVIRONMENT, HISTORY, METRICS, TRACKED, CLASSES),
)
OUR_FOLDERS = (
    *(STATE, PLOTS, f"{TENSORBOARD}/*", TENSORBOARD, EXPLAIN, "evaluate-*", EXPORT, f"{EXPORT}/saved_model"),
    *(f"{EXPORT}/saved_model/{name}" for name in SAVED_MODEL_FOLDERS),
)


def write_json(path: Path, value: Any) -> None:
    """Write JSON as a whole; values that are not finite are a bug."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Return what a JSON file of a run holds.

    Raises:
        RunError: it is missing, or damaged.
    """
    try:
        return json.loads(read_text(path, MOST_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{visible(path)}: cannot be read: {visible(error)}") from None


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file as a whole, with cells that no spreadsheet takes for a formula."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([csv_cell(cell) for cell in header])
        writer.writerows([csv_cell(cell) for cell in row] for row in rows)


def read_rows(path: Path, columns: int) -> list[list[str]]:
    """Return the rows of a CSV file that `write_rows` wrote, without the header.

    Raises:
        RunError: the file is missing, or a row has another number of columns.
    """
    try:
        text = read_text(path, MOST_TABLE_BYTES)
    except (OSError, ValueError) as error:
        raise RunError(f"{visible(path)}: cannot be read: {visible(error)}") from None
    try:
        rows = [[parse_csv_cell(cell) for cell in row] for row in csv.reader(io.StringIO(text))][1:]
    except csv.Error as error:
        raise RunError(f"{visible(path)}: damaged: {visible(error)}") from None
    for number, row in enumerate(rows, start=2):
        if len(row) != columns:
            raise RunError(f"{visible(path)}:{number}: damaged: {len(row)} columns, expected {columns}")
    return rows
