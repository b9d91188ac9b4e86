"""Does the memory of `wisesr train` grow with the number of images if decoded images are kept on the disk?

    python -m benchmarks.speed.memory [--quick] [--repetitions N] [--json FILE]

Compares the peak resident memory of the whole process for one epoch on ten times the images with that on the images
once. Files: JPEG, 32x32, resized to 128x128; backbone: compact_small. Pages of a mapped file would count, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.measuring import Answer, Question, Settings, alternate, main, run_process, wisesr_command
from benchmarks.speed.images import make_images

GROWTH = Question(
    "peak memory of `wisesr train`, data.cache: disk, {:,} images", "{:,} images", "MiB", reach=1.1, aim=1.05
)
SIDE = 128  # pixels: 48 KiB an image


def measure(settings: Settings) -> Iterator[Answer]:
    """Yield the peak for ten times the images against that for the images once."""
    few = 200 if settings.quick else 1_000
    folders = [make_images(settings.folder / str(count), count, (32, 32), "jpg") for count in (few, 10 * few)]
    once, ten_times = (Training(folder, settings.folder) for folder in folders)
    question = Question(
        GROWTH.name.format(10 * few), GROWTH.baseline.format(few), GROWTH.unit, GROWTH.reach, GROWTH.aim
    )
    kept = 10 * few * SIDE * SIDE * 3 / 2**20
    yield Answer(
        question,
        *alternate(ten_times.peak_mebibytes, once.peak_mebibytes, repetitions=settings.repetitions),
        note=f"the larger run keeps {kept:,.0f} MiB of decoded images on disk",
    )


class Training:
    """Trains for one epoch on a folder, each time in a new output folder."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder, self.runs = data, folder, 0

    def peak_mebibytes(self) -> float:
        """Return the peak resident memory of a training, including the decoding of the images."""
        self.runs += 1
        place = self.folder / f"run-{self.data.name}-{self.runs}"
        command = [wisesr_command(), "train", str(self.data), "--quiet", "--device", "cpu", "--output-dir", str(place)]
        command += ["--epochs", "1", "--image-size", str(SIDE), "--backbone", "compact_small"]
        command += ["--set", "data.cache=disk"]
        return run_process(command, environment={"WISESR_CACHE_DIR": str(place / "caches")}).peak_mebibytes


if __name__ == "__main__":
    main(__doc__, measure)
