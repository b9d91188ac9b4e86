"""Does the cost of an evaluation and a split grow with the number of classes, or with that of pairs of classes?

    python -m benchmarks.scale.classes [--quick] [--repetitions N] [--json FILE]

The table has a row per number of classes. Each figure is the median of the repetitions, followed by the cost per class
relative to the row above: 1.00 is linear, less means that part of the cost is constant; 10 (in the last row, 2.18)
would be quadratic.

Metrics are computed from the logits of 2,000 images, whatever the number of classes. Everything else uses two images
per class: their answers, half of them right, are written as `wisesr evaluate` does, read back and plotted, and PNG
files of 8x8 pixels in class folders are listed, inspected and split, with empty caches.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measuring import Settings, arguments_for, figure, settings_for
from wisesr_cli.confusion import Confusion
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.data.survey import survey
from wisesr_cli.display.grid import Column, Grid, to_markdown
from wisesr_cli.evaluation.metrics import Answers, answers_of, compute_metrics
from wisesr_cli.evaluation.output import Scored, draw_evaluation, evaluation_of, write_evaluation
from wisesr_cli.listening import Silent
from wisesr_cli.results.evaluation import ClassMetrics
from wisesr_cli.run.names import METRICS, PREDICTIONS
from wisesr_cli.run.records import read_json, read_rows

COUNTS, QUICK_COUNTS = (100, 1_000, 10_000, 21_841), (20, 300)
IMAGES_WITH_LOGITS = 2_000
IMAGES_PER_CLASS = 2


@dataclass(frozen=True)
class Costs:
    """The costs with one number of classes: a field for every column of `TITLES`."""

    metrics_seconds: float
    writing_seconds: float
    reading_seconds: float
    drawing_seconds: float
    splitting_seconds: float
    json_megabytes: float
    evaluation_megabytes: float


TITLES = {
    "metrics_seconds": "metrics of 2,000 images, s",
    "writing_seconds": "writing an evaluation, s",
    "reading_seconds": "reading it, s",
    "drawing_seconds": "drawing its plots, s",
    "splitting_seconds": "listing and splitting, s",
    "json_megabytes": "metrics.json, MB",
    "evaluation_megabytes": "evaluation folder, MB",
}
ABOUT = (
    "In brackets: cost per class relative to the row above; 1.00 is linear. Metrics use the logits of 2,000 images, "
    "everything else two images per class. The plot shows at most 200 classes."
)


def main() -> None:
    """Measure every number of classes, and print the table."""
    arguments = arguments_for(__doc__).parse_args()
    costs: dict[int, Costs] = {}
    for classes in QUICK_COUNTS if arguments.quick else COUNTS:
        with tempfile.TemporaryDirectory(prefix="wisesr-benchmark-") as folder:
            costs[classes] = costs_of(classes, settings_for(arguments, Path(folder)))
    repetitions = settings_for(arguments, Path()).repetitions
    title = f"### Many classes, medians of {repetitions}"
    markdown = f"{title}\n\n{to_markdown(grid(costs))}\n{ABOUT}\n"
    print(markdown)
    if arguments.json:
        arguments.json.write_text(json.dumps({"markdown": markdown}, indent=1) + "\n", encoding="utf-8")


def grid(costs: dict[int, Costs]) -> Grid:
    """Return the table: a row per number of classes, with the growth of its figures from the row above."""
    rows = []
    before: tuple[int, Costs] | None = None
    for classes, found in costs.items():
        cells = [f"{classes:,}"]
        for field in fields(found):
            value = getattr(found, field.name)
            growth = ""
            if before is not None:
                growth = f" ({value / classes / (getattr(before[1], field.name) / before[0]):.2f})"
            cells.append(figure(value) + growth)
        rows.append(tuple(cells))
        before = classes, found
    return Grid("", (Column("classes", True), *(Column(title, True) for title in TITLES.values())), tuple(rows))


def costs_of(classes: int, settings: Settings) -> Costs:
    """Measure the costs with one number of classes."""
    names = [f"n{number:08}" for number in range(classes)]
    draws = np.random.default_rng(0)
    labels = draws.integers(0, classes, IMAGES_WITH_LOGITS)
    logits = draws.standard_normal((IMAGES_WITH_LOGITS, classes), dtype=np.float32)

    def median(work: Callable[[], object]) -> float:
        return statistics.median(seconds_of(work) for _ in range(settings.repetitions))

    scored = drawn_answers(names)
    paths = [f"{names[label]}/{number}.png" for number, label in enumerate(scored.answers.labels.tolist())]
    output = settings.folder / "run" / "evaluate-test"
    output.mkdir(parents=True)
    (output.parent / "plots").mkdir()
    judged = partial(evaluation_of, scored, paths, str(output), "test", 0)
    photos = settings.folder / "photos"
    make_images(photos, names)
    return Costs(
        metrics_seconds=median(lambda: (compute_metrics(logits, labels, names), answers_of(logits, labels))),
        writing_seconds=median(lambda: write_evaluation(output, judged(), paths, scored.answers)),
        reading_seconds=median(lambda: (read_json(output / METRICS), read_rows(output / PREDICTIONS, 6))),
        drawing_seconds=median(lambda: draw_evaluation(output.parent / "plots", judged())),
        splitting_seconds=median(lambda: split(photos, settings.folder / "caches")),
        json_megabytes=(output / METRICS).stat().st_size / 1e6,
        evaluation_megabytes=sum(path.stat().st_size for path in output.iterdir()) / 1e6,
    )


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long a function takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def drawn_answers(names: list[str]) -> Scored:
    """Return answers to some images of every class, half of them right, and metrics, without computing all logits."""
    draws = np.random.default_rng(1)
    classes, images = len(names), IMAGES_PER_CLASS * len(names)
    labels = np.arange(images) % classes
    predicted = np.where(draws.random(images) < 0.5, labels, draws.integers(0, classes, images))
    scores = draws.uniform(0.5, 1, images)
    answers = Answers(labels, predicted, scores, np.where(labels == predicted, scores, 1 - scores))
    pairs, counts = np.unique(labels * classes + predicted, return_counts=True)
    cells = tuple(zip((pairs // classes).tolist(), (pairs % classes).tolist(), counts.tolist(), strict=True))
    metrics = compute_metrics(np.zeros((1, classes), np.float32), [0], names)
    per_class = tuple(ClassMetrics(name, IMAGES_PER_CLASS, 0.5, 0.5, 0.5) for name in names)
    return Scored(replace(metrics, examples=images, per_class=per_class, confusion=Confusion(classes, cells)), answers)


def make_images(folder: Path, names: list[str]) -> None:
    """Write small images, all different, into class folders."""
    draws = np.random.default_rng(2)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(IMAGES_PER_CLASS):
            pixels = draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def split(photos: Path, caches: Path) -> None:
    """List and split images, with empty caches."""
    shutil.rmtree(caches, ignore_errors=True)
    os.environ["WISESR_CACHE_DIR"] = str(caches)
    config = DataConfig(dir=photos)
    survey(config, listener=Silent()).splits_for_training(config, seed=0)


if __name__ == "__main__":
    main()
