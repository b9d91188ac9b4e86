"""Measures how time, memory and disk use grow with images, classes, image size and head: one table for each.

    python -m benchmarks.scale.growth            # 20 minutes on 2 cores
    python -m benchmarks.scale.growth --quick    # a minute: shows that it runs

Every figure is measured once, in a separate process. In each table only the first column varies; the title names the
rest. The images are generated, all different; the network is `compact_small`, to keep the time for 100,000 images
bearable. Only the last table, of a million images, is computed, and says so.
"""

from __future__ import annotations

import csv
import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measuring import ProcessCost, arguments_for, figure, run_process, wisesr_command
from wisesr_cli.display.grid import Column, Grid, to_markdown
from wisesr_cli.machine.threads import worker_count
from wisesr_cli.models.heads import HEADS

EPOCHS = 3
MILLION = 1_000_000


@dataclass(frozen=True)
class Case:
    """What is measured: the numbers of photos and classes, the photos' size, their `image_size` in pixels, the head."""

    images: int
    classes: int
    image_size: int
    head: str
    photo_size: tuple[int, int]  # width, height
    batch: int

    def without(self, axis: str) -> str:
        """Return a description of everything but the axis of a table, for its title."""
        width, height = self.photo_size
        parts = {
            "images": f"{self.images:,} images",
            "classes": f"{self.classes:,} classes",
            "image_size": f"{self.image_size} pixels",
            "head": f"head {self.head}",
        }
        rest = ", ".join(text for name, text in parts.items() if name != axis)
        return f"{rest}; JPEG files of {width}x{height}, compact_small, batches of {self.batch}"


@dataclass(frozen=True)
class Costs:
    """The costs of one case: a field for every column of `TITLES`."""

    check_seconds: float
    check_again_seconds: float
    check_mebibytes: float
    around_epochs_seconds: float
    first_epoch_seconds: float
    later_epoch_seconds: float
    train_mebibytes: float
    predict_seconds: float
    predict_milliseconds: float
    predict_mebibytes: float
    cache_mebibytes: float
    run_mebibytes: float


TITLES = {
    "check_seconds": "check, s",
    "check_again_seconds": "check again, s",
    "check_mebibytes": "check, peak MiB",
    "around_epochs_seconds": "train: outside the epochs, s",
    "first_epoch_seconds": "train: first epoch, s",
    "later_epoch_seconds": "train: later epoch, s",
    "train_mebibytes": "train, peak MiB",
    "predict_seconds": "predict, s",
    "predict_milliseconds": "predict, ms per image",
    "predict_mebibytes": "predict, peak MiB",
    "cache_mebibytes": "caches on disk, MiB",
    "run_mebibytes": "run directory, MiB",
}
ABOUT = (
    "Outside the epochs, training starts up, scans the images and saves. The first epoch includes tracing the network. "
    "The time per image of predict leaves out the first image, which includes startup."
)
AXES = {"images": "Images", "classes": "Classes", "image_size": "Image size", "head": "Head"}

SMALL = Case(images=10_000, classes=10, image_size=32, head="wise", photo_size=(64, 48), batch=128)
LARGE = Case(images=1_000, classes=10, image_size=96, head="wise", photo_size=(640, 480), batch=32)
TABLES: tuple[tuple[str, Case, tuple[int | str, ...]], ...] = (
    ("images", SMALL, (1_000, 10_000, 100_000)),
    ("classes", SMALL, (10, 100, 1_000)),
    ("image_size", LARGE, (96, 224, 512)),
    ("head", LARGE, tuple(HEADS)),
)
TINY = Case(images=60, classes=3, image_size=32, head="wise", photo_size=(64, 48), batch=128)
QUICK_TABLES: tuple[tuple[str, Case, tuple[int | str, ...]], ...] = (
    ("images", TINY, (60, 120)),
    ("head", TINY, ("gap",)),
)


@dataclass(frozen=True)
class Table:
    """The costs of the cases along one axis."""

    axis: str
    cases: tuple[Case, ...]
    costs: tuple[Costs, ...]

    def grid(self) -> Grid:
        """Return the grid to show."""
        values = [getattr(case, self.axis) for case in self.cases]
        texts = [f"{value:,}" if isinstance(value, int) else str(value) for value in values]
        rows = [(text, *cells(costs)) for text, costs in zip(texts, self.costs, strict=True)]
        title = f"{AXES[self.axis]}, with {self.cases[0].without(self.axis)}"
        return Grid(title, columns(AXES[self.axis].lower()), tuple(rows))


def main() -> None:
    """Measure every table and print each as soon as it is known."""
    arguments = arguments_for(__doc__).parse_args()
    tables = []
    for axis, base, values in QUICK_TABLES if arguments.quick else TABLES:
        tables.append(measured(axis, base, values))
        print(shown(tables[-1].grid()), flush=True)
    million = shown(expected_at(MILLION, tables[0]))
    print(f"{ABOUT}\n\n{million}")
    if arguments.json:
        markdown = "\n".join([*(shown(table.grid()) for table in tables), f"{ABOUT}\n", million])
        arguments.json.write_text(json.dumps({"markdown": markdown}, indent=1) + "\n", encoding="utf-8")


def measured(axis: str, base: Case, values: Sequence[int | str]) -> Table:
    """Measure and return a table along one axis."""
    cases = tuple(replace(base, **{axis: value}) for value in values)  # type: ignore[arg-type]
    costs = []
    for case in cases:
        print(f"{axis}: {getattr(case, axis)}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="wisesr-benchmark-") as folder:
            costs.append(costs_of(case, Path(folder)))
    return Table(axis, cases, tuple(costs))


def costs_of(case: Case, folder: Path) -> Costs:
    """Check, train and predict one case, each in a separate process, check and training with empty caches."""
    photos, runs, caches = folder / "photos", folder / "runs", folder / "caches"
    make_photos(photos, case)
    size = ("--image-size", case.image_size)
    check, again = (wisesr(caches, "check", photos, *size, "-q") for _ in range(2))
    shutil.rmtree(caches)
    network = ("--backbone", "compact_small", "--head", case.head, *size, "-b", case.batch, "--epochs", EPOCHS)
    train = wisesr(caches, "train", photos, *network, "-o", runs, "--name", "run", "-q")
    epochs = epoch_seconds(runs / "run" / "history.csv")
    one = wisesr(caches, "predict", runs / "run", next(photos.rglob("*.jpg")), "--format", "csv", "-q")
    every = wisesr(caches, "predict", runs / "run", photos, "--format", "csv", "-q")
    return Costs(
        check_seconds=check.seconds,
        check_again_seconds=again.seconds,
        check_mebibytes=check.peak_mebibytes,
        around_epochs_seconds=train.seconds - sum(epochs),
        first_epoch_seconds=epochs[0],
        later_epoch_seconds=statistics.median(epochs[1:]),
        train_mebibytes=train.peak_mebibytes,
        predict_seconds=every.seconds,
        predict_milliseconds=1000 * (every.seconds - one.seconds) / (case.images - 1),
        predict_mebibytes=every.peak_mebibytes,
        cache_mebibytes=mebibytes_in(caches),
        run_mebibytes=mebibytes_in(runs),
    )


def wisesr(caches: Path, *words: object) -> ProcessCost:
    """Run a wisesr command with its caches in a folder."""
    return run_process([wisesr_command(), *map(str, words)], environment={"WISESR_CACHE_DIR": str(caches)})


def make_photos(folder: Path, case: Case) -> None:
    """Write the images of a case into class folders."""
    names = [f"class_{number:04}" for number in range(case.classes)]
    with ThreadPoolExecutor(worker_count()) as pool:
        for _ in pool.map(lambda label: make_class(folder / names[label], label, case), range(case.classes)):
            pass


def make_class(folder: Path, label: int, case: Case) -> None:
    """Write the photos of one class: soft patches of colour, no two alike."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(label)
    for number in range(case.images // case.classes):
        patches = Image.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        patches.resize(case.photo_size, Image.Resampling.BICUBIC).save(folder / f"{number:06}.jpg", quality=85)


def epoch_seconds(history: Path) -> list[float]:
    """Return the duration of each epoch of a run."""
    with history.open(encoding="utf-8", newline="") as file:
        return [float(row["epoch_seconds"]) for row in csv.DictReader(file)]


def mebibytes_in(folder: Path) -> float:
    """Return the total size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def columns(first: str, names: Iterable[str] = TITLES) -> tuple[Column, ...]:
    """Return the columns of a table with costs."""
    return (Column(first, True), *(Column(TITLES[name], True) for name in names))


def cells(costs: Costs) -> Iterator[str]:
    """Return the figures of a row."""
    return (figure(getattr(costs, name)) for name in TITLES)


def expected_at(images: int, table: Table) -> Grid:
    """Return a linear extrapolation to more images, for each column, from the last two rows of the table of images."""
    (fewer, before), (more, after) = list(zip((case.images for case in table.cases), table.costs, strict=True))[-2:]
    names = [name for name in TITLES if name != "predict_milliseconds"]  # per image, whatever their number
    values = [
        getattr(after, name) + (images - more) * (getattr(after, name) - getattr(before, name)) / (more - fewer)
        for name in names
    ]
    title = (
        f"Estimate for {images:,} images: not measured, but extrapolated linearly from {fewer:,} and "
        f"{more:,} images, with {table.cases[-1].without('images')}"
    )
    return Grid(title, columns("images", names), ((f"{images:,}", *map(figure, values)),))


def shown(grid: Grid) -> str:
    """Return a table with its title as Markdown."""
    return f"### {grid.title}\n\n{to_markdown(grid)}"


if __name__ == "__main__":
    main()
