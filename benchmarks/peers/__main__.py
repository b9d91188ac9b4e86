"""wisesr side by side with a Keras script, PyTorch with timm, Ultralytics and KerasHub.

    pip install -e '.[peers]'
    python -m benchmarks.peers FOLDER_OF_PHOTOS [train predict size] [--repetitions N] [--write]

FOLDER_OF_PHOTOS holds `train` and `validation`, with a folder per class. Every tool trains the same photos at the same
size and batch from random weights, and labels the same photos, on one core and on two, in turns. A tool that is not
installed is skipped. Do nothing else on the machine meanwhile; it takes about an hour on 2 cores. `--write` writes
docs/peers.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measuring import (
    QUICK_REPETITIONS,
    REPETITIONS,
    Answer,
    Question,
    arguments_for,
    errors_in_a_line,
    table,
)
from benchmarks.pages import DOCS, keep_figures, machine, read_figures, write_between_marks
from benchmarks.peers.sizes import installed_mebibytes
from benchmarks.peers.tools import BACKBONES, PEERS, WISESR, Tool, Training
from benchmarks.peers.trees import TreeCost, run_tree
from wisesr_cli.display.grid import to_markdown
from wisesr_cli.machine.files import write_text

DOCUMENT = DOCS / "peers.md"
FIGURES = DOCUMENT.with_suffix(".json")
SIDE, PREDICTED_SIDE = 96, 224
EPOCHS = 2
PHOTOS = {"MobileNetV2": (128, 32), "ResNet50": (64, 32)}  # trained, validated
LABELLED = 150

EPOCH_ENDED = re.compile(
    r"epoch +\d+(/\d+ {2}|\s*$)"
)  # not the progress within it: `epoch 1/2: 3 of 16, about 9 s left`

Figures = dict[str, list[float]]  # by tool, one per repetition


def main() -> None:
    """Measure what was asked for, print it, and write the page."""
    parser = arguments_for(__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--write", action="store_true", help=f"write docs/{DOCUMENT.name}")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    for split in ("train", "validation"):
        if not (arguments.photos / split).is_dir():
            parser.error(f"{arguments.photos} has no folder {split}/ with a folder per class")
    say_which_are_missing()
    every: list[Answer] = []
    for part in arguments.parts or PARTS if present_peers() else ():
        with errors_in_a_line(), tempfile.TemporaryDirectory(prefix="wisesr-peers-") as folder:
            answers = []
            for answer in PARTS[part](Bench(arguments, Path(folder))):
                answers.append(answer)
                if arguments.write:
                    keep_figures(FIGURES, part, figures_of(answers), order=tuple(PARTS))
                    write_document()
        every += answers
    print(to_markdown(table(every)), end="")
    if arguments.json:
        write_text(arguments.json, json.dumps([answer.to_json() for answer in every], indent=1) + "\n")


def figures_of(answers: list[Answer]) -> dict[str, Any]:
    """Return the figures of a part, and where they were measured."""
    values = [answer.to_json() for answer in answers]
    return {"machine": machine(), "versions": versions(), "measured": time.strftime("%Y-%m-%d"), "figures": values}


class Bench:
    """The photos, the tools that are installed, and how often each is measured."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.quick: bool = arguments.quick
        self.repetitions: int = arguments.repetitions or (QUICK_REPETITIONS if self.quick else REPETITIONS)
        self.photos: Path = arguments.photos
        self.folder = folder
        self.cores = (1,) if self.quick or len(os.sched_getaffinity(0)) == 1 else (1, 2)
        self.tools = [WISESR, *present_peers()]
        self._numbers = itertools.count()

    def training(self, backbone: str, side: int, epochs: int) -> Training:
        """Return a training on a share of the photos, with a folder of its own."""
        count, validated = (20, 20) if self.quick else PHOTOS[backbone]
        data = self.folder / f"{count}-{validated}"
        if not data.exists():
            share(self.photos / "train", data / "train", count)
            share(self.photos / "validation", data / "val", validated)
        return Training(data, backbone, side, epochs, self.folder / f"model{next(self._numbers)}")

    def in_turns(self, tools: Sequence[Tool], measure: Callable[[Tool], tuple[float, ...]]) -> list[Figures]:
        """Return each figure that `measure` gives of every tool; each repetition begins with another tool."""
        found: list[Figures] = []
        for repetition in range(self.repetitions):
            for number in range(len(tools)):
                tool = tools[(number + repetition) % len(tools)]
                for position, value in enumerate(measure(tool)):
                    if position == len(found):
                        found.append({})
                    found[position].setdefault(tool.name, []).append(value)
                print(f"{tool.name}: repetition {repetition + 1}", file=sys.stderr, flush=True)
        return found


def present_peers() -> list[Tool]:
    """Return the peers that are installed."""
    return [peer for peer in PEERS if not peer.missing()]


def say_which_are_missing() -> None:
    """Print a line for each peer that is skipped."""
    for peer in PEERS:
        if missing := peer.missing():
            print(
                f"skipped: {peer.name}: {', '.join(missing)} not installed; pip install -e '.[peers]'", file=sys.stderr
            )


def share(source: Path, target: Path, count: int) -> None:
    """Copy `count` photos, as many of each class."""
    classes = sorted(path for path in source.iterdir() if path.is_dir())
    for number, folder in enumerate(classes):
        some = count // len(classes) + (number < count % len(classes))
        (target / folder.name).mkdir(parents=True)
        photos = sorted(folder.iterdir())
        for copy in range(some):
            photo = photos[copy % len(photos)]
            shutil.copy(photo, target / folder.name / f"{copy:03}{photo.suffix}")


def trainings(bench: Bench) -> Iterator[Answer]:
    """Yield the seconds of an epoch after the first, those of the whole command, and its memory."""
    for backbone, cores in itertools.product(BACKBONES, bench.cores):
        tools = [tool for tool in bench.tools if backbone in tool.backbones]

        def measure(tool: Tool, backbone: str = backbone, cores: int = cores) -> tuple[float, float, float]:
            training = bench.training(backbone, SIDE, EPOCHS)
            cost = run_tree(tool.train(training), cores=cores, sample_seconds=1)
            shutil.rmtree(training.folder)
            return statistics.median(epoch_seconds(cost)), cost.seconds, cost.peak_mebibytes

        epochs, whole, memory = bench.in_turns(tools, measure)
        of = f"{backbone} at {SIDE} px, {in_cores(cores)}"
        yield from against_wisesr(Question(f"an epoch after the first, {of}", "", "seconds", 1), epochs)
        yield from against_wisesr(
            Question(f"training for {EPOCHS} epochs, whole command, {of}", "", "seconds", 1), whole
        )
        yield from against_wisesr(Question(f"peak memory of that, {of}", "", "MiB", 1), memory)


def epoch_seconds(cost: TreeCost) -> list[float]:
    """Return the time between the ends of consecutive epochs, so with all that a tool does and writes in between."""
    ends = [seconds for seconds, line in cost.lines if EPOCH_ENDED.match(line)][:EPOCHS]
    if len(ends) < EPOCHS:
        raise SystemExit(f"error: {len(ends)} of {EPOCHS} epochs were seen:\n{cost.end()}")
    return [later - earlier for earlier, later in itertools.pairwise(ends)]


def predictions(bench: Bench) -> Iterator[Answer]:
    """Yield the images per second of a folder, its memory, and the seconds until the first label of a photo."""
    tools = [tool for tool in bench.tools if tool.predict is not None]
    models = {}
    for tool in tools:
        models[tool.name] = bench.training("MobileNetV2", PREDICTED_SIDE, 1)
        run_tree(tool.train(models[tool.name]), cores=len(os.sched_getaffinity(0)))
    count = 20 if bench.quick else LABELLED
    photos = photos_in(bench, count)
    photo = min(photos.iterdir())

    def labelled(tool: Tool, path: Path, cores: int, sample_seconds: float | None = None) -> TreeCost:
        assert tool.predict is not None
        cost = run_tree(tool.predict(models[tool.name], path), cores=cores, sample_seconds=sample_seconds)
        expected = count if path.is_dir() else 1
        found = sum(str(path) in line for _, line in cost.lines)
        if found < expected:
            raise SystemExit(f"error: {tool.name} labelled {found} of {expected} photos:\n{cost.end()}")
        return cost

    for cores in bench.cores:

        def measure(tool: Tool, cores: int = cores) -> tuple[float, ...]:
            rate = count / labelled(tool, photos, cores).seconds
            first = labelled(tool, photo, cores).seconds_until(photo.name)
            if cores < bench.cores[-1]:
                return rate, first
            return rate, first, labelled(tool, photos, cores, sample_seconds=0.1).peak_mebibytes

        rates, first, *memory = bench.in_turns(tools, measure)
        of = f"MobileNetV2 at {PREDICTED_SIDE} px, {in_cores(cores)}"
        yield from against_wisesr(Question(f"labelling {count} photos, start included, {of}", "", "images/s", 1), rates)
        for figures in memory:
            yield from against_wisesr(Question(f"peak memory of that, {of}", "", "MiB", 1), figures)
        yield from against_wisesr(Question(f"start to the first label, {of}", "", "seconds", 1), first)


def photos_in(bench: Bench, count: int) -> Path:
    """Return a folder of so many photos, without class folders."""
    folder, copies = bench.folder / f"photos{count}", bench.folder / f"copies{count}"
    share(bench.photos / "train", copies, count)
    folder.mkdir()
    for number, copy in enumerate(sorted(copies.rglob("*.*"))):
        copy.rename(folder / f"{number:04}{copy.suffix}")
    return folder


def sizes(bench: Bench) -> Iterator[Answer]:
    """Yield what each tool takes on the disk, with all that it requires; and the same without code for GPUs."""
    figures = {tool.name: installed_mebibytes(tool.distribution) for tool in bench.tools}
    whole = {name: [all_of_it] for name, (all_of_it, _) in figures.items()}
    plain = {name: [without] for name, (_, without) in figures.items()}
    yield from against_wisesr(Question("installed from PyPI, with all that it requires", "", "MiB", 1), whole)
    yield from against_wisesr(Question("installed, without NVIDIA's packages and Triton", "", "MiB", 1), plain)


PARTS: dict[str, Callable[[Bench], Iterator[Answer]]] = {"train": trainings, "predict": predictions, "size": sizes}


def against_wisesr(question: Question, figures: Figures) -> Iterator[Answer]:
    """Yield the figures of wisesr against those of every other tool."""
    for peer, values in figures.items():
        if peer != WISESR.name:
            asked = Question(question.name, peer, question.unit, question.reach)
            yield Answer(asked, figures[WISESR.name], values)


def in_cores(count: int) -> str:
    return f"{count} core" + "s" * (count > 1)


def versions() -> str:
    """Return the releases of what was measured."""
    names = ["keras", *(tool.distribution for tool in present_peers())]
    if "timm" in names:
        names.append("torch")
    return ", ".join(f"{name} {version(name)}" for name in names)


def write_document() -> None:
    """Replace the table of the page."""
    kept: dict[str, Any] = read_figures(FIGURES)
    answers = [Answer.from_json(values) for record in kept.values() for values in record["figures"]]
    where: dict[str, list[str]] = {}
    for part, record in kept.items():
        where.setdefault(f"{record['machine']}, {record['versions']}; {record['measured']}", []).append(part)
    lines = "".join(f"Measured on {place}: {', '.join(parts)}.\n" for place, parts in where.items())
    write_between_marks(DOCUMENT, "benchmarks.peers", {"peers": f"{to_markdown(table(answers))}\n{lines}"})


if __name__ == "__main__":
    main()
