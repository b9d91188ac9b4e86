"""Measures the images per second of training with more processes, or with more devices in one process.

    python -m benchmarks.scale.weak_scaling --quick    # a minute: shows that it runs
    python -m benchmarks.scale.weak_scaling --write    # measures, and writes docs/scale.json and docs/scale.md

Every process, or device, has its own core and as many images per step as the single one it is compared with; processes
communicate over the loopback interface, on the JAX backend. If nothing were exchanged or shared, twice as many would
train twice as many images per second.
"""

from __future__ import annotations

import csv
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measuring import (
    Answer,
    Question,
    Settings,
    arguments_for,
    plain_environment,
    settings_for,
    table,
    wisesr_command,
)
from benchmarks.scale import page
from wisesr_cli.display.grid import to_markdown

COUNTS = (1, 2, 4)
CLASSES = 4


@dataclass(frozen=True)
class Work:
    """What is trained: `steps` of `batch` images per process and epoch; the first epoch does not count."""

    backbone: str
    pixels: int
    batch: int
    steps: int
    epochs: int


WORK = Work(backbone="compact", pixels=32, batch=32, steps=10, epochs=4)
QUICK = Work(backbone="compact_small", pixels=16, batch=8, steps=2, epochs=2)


@dataclass(frozen=True)
class Case:
    """A number of processes or, if `processes` is 1, of devices in one process; each has its own core."""

    cores: int
    processes: int

    @property
    def name(self) -> str:
        """Its name in the table."""
        if self.cores == 1:
            return "1 process, 1 core"
        what = "processes" if self.processes > 1 else "virtual devices of one process"
        return f"{self.cores} {what}, {self.cores} cores"


ALONE = Case(cores=1, processes=1)
CASES = (Case(2, 2), Case(4, 4), Case(2, 1), Case(4, 1))
QUICK_CASES = (Case(2, 2),)


def measure(settings: Settings) -> list[Answer]:
    """Compare processes and devices with one process on one core, all of them alternately."""
    work = QUICK if settings.quick else WORK
    cores = sorted(os.sched_getaffinity(0))
    cases = [case for case in (QUICK_CASES if settings.quick else CASES) if case.cores <= len(cores)]
    photos = {count: make_photos(settings.folder / f"photos-{count}", count, work) for count in COUNTS}
    figures: dict[Case, list[float]] = {case: [] for case in (ALONE, *cases)}
    for repetition in range(settings.repetitions):
        for case in figures if repetition % 2 == 0 else reversed(figures):
            speed = images_per_second(photos[case.cores], cores[: case.cores], case.processes, work, settings.folder)
            figures[case].append(speed)
            print(f"{case.name}: {speed:.0f} images/s", file=sys.stderr, flush=True)
    return [
        Answer(Question(case.name, ALONE.name, "images/s"), figures[case], figures[ALONE], note_on(work))
        for case in cases
    ]


def note_on(work: Work) -> str:
    """Return a note on what was trained."""
    return (
        f"{work.backbone} at {work.pixels} pixels, {work.batch} images per process or device and step, "
        f"{work.steps} steps per epoch, median of epochs 2 to {work.epochs}"
    )


def images_per_second(photos: Path, cores: Sequence[int], processes: int, work: Work, folder: Path) -> float:
    """Train on these cores, one per process or all for the devices of a single process, and return the speed."""
    port = free_port()
    with tempfile.TemporaryDirectory(dir=folder) as output:
        started = [
            subprocess.Popen(
                [*training(photos, Path(output), work, len(cores)), *part(process, processes, len(cores), port)],
                env=plain_environment({"KERAS_BACKEND": "jax", "WISESR_CACHE_DIR": str(folder / "caches")}),
                preexec_fn=lambda process=process: os.sched_setaffinity(
                    0, cores if processes == 1 else {cores[process]}
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for process in range(processes)
        ]
        for process in started:
            _, said = process.communicate(timeout=600)
            if process.returncode:
                raise SystemExit(said.decode(errors="replace")[-4000:])
        with (Path(output) / "run" / "history.csv").open(encoding="utf-8", newline="") as file:
            seconds = [float(row["epoch_seconds"]) for row in csv.DictReader(file)]
    return work.steps * work.batch * len(cores) / statistics.median(seconds[1:])


def training(photos: Path, output: Path, work: Work, cores: int) -> list[str]:
    """Return the part of the command line that all processes of a training share."""
    settings = {
        "augment": "none",
        "data.validation_split": 0,
        "data.cache": "memory",
        "train.schedule.name": "constant",
    }
    return [
        *(wisesr_command(), "train", str(photos), "-o", str(output), "--name", "run", "--device", "cpu", "-q"),
        *("--backbone", work.backbone, "--image-size", str(work.pixels), "--batch-size", str(work.batch * cores)),
        # One epoch more than is trained, as an unfinished training converts no model at its end.
        *("--epochs", str(work.epochs + 1), "--max-steps", str(work.epochs * work.steps)),
        *(word for name, value in settings.items() for word in ("--set", f"{name}={value}")),
    ]


def part(process: int, processes: int, cores: int, port: int) -> list[str]:
    """Return the options that differ: those of one of several processes, or of one process with several devices."""
    if processes == 1:
        return ["--set", "distribute.strategy=data_parallel", "--set", f"distribute.devices={cores}"]
    return [f"--coordinator=127.0.0.1:{port}", f"--num-processes={processes}", f"--process-id={process}"]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def make_photos(folder: Path, processes: int, work: Work) -> Path:
    """Write as many images as this number of processes trains on in an epoch."""
    draw = np.random.default_rng(0)
    for number in range(work.steps * work.batch * processes):
        path = folder / f"class {number % CLASSES}" / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (work.pixels, work.pixels, 3), dtype=np.uint8)).save(path)
    return folder


def main() -> None:
    """Measure, print the table, and on request store it."""
    parser = arguments_for(__doc__)
    parser.add_argument("--write", action="store_true", help="store the figures, and write docs/scale.md")
    parser.add_argument("--write-only", action="store_true", help="only rewrite docs/scale.md")
    arguments = parser.parse_args()
    if arguments.write_only:
        page.write_document()
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="wisesr-benchmark-") as folder:
        answers = measure(settings_for(arguments, Path(folder)))
    print(to_markdown(table(answers)), end="")
    if arguments.write:
        page.keep([answer.to_json() for answer in answers], load=load)
        page.write_document()


if __name__ == "__main__":
    main()
