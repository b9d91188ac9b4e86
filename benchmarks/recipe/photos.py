"""What does `wisesr train PHOTOS` achieve without options, against the Keras guide with the same weights?

    python -m benchmarks.recipe.photos PHOTOS --weights-dir FOLDER [--seeds 0 1 2] [--only wisesr random keras]

PHOTOS has train/, validation/ and test/; FOLDER has the ImageNet weights, mobilenet_notop.weights.h5. Each row is from
whole processes, one per seed: `wisesr` takes its weights from FOLDER, `random` trains with `--weights none`, `keras` is
`plain_keras` next to this file. The test split is used once, at the end; minutes are those of the training, and "in
training" is the accuracy on the training images during the epoch of the model that was kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from benchmarks.measuring import run_process, wisesr_command
from wisesr_cli.display.grid import Grid, numbers, texts, to_markdown
from wisesr_cli.model_files.archive import read_model_info

FROZEN_EPOCHS, TUNING_EPOCHS = 10, 4  # of `plain_keras`: as in the recipe
WAYS = ("wisesr", "random", "keras")
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # 97.5 % point of Student's t for n - 1 degrees of freedom


@dataclass(frozen=True)
class Outcome:
    """The accuracies and the duration in seconds of one training."""

    in_training: float
    train: float
    validation: float
    test: float
    seconds: float


def main() -> None:
    """Train with every seed, and print a line for each and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument(
        "--only", nargs="+", choices=("wisesr", "random", "keras"), default=("wisesr", "random", "keras")
    )
    parser.add_argument("--backbone", help="for wisesr and keras; default: the choice of wisesr, and MobileNet")
    parser.add_argument("--size", type=int, help="side of the images in pixels; default: the choice of wisesr, and 224")
    parser.add_argument("--setting", "-s", action="append", default=[], help="setting for wisesr, KEY=VALUE")
    arguments = parser.parse_args()
    photos, weights = arguments.photos.absolute(), arguments.weights_dir.absolute()
    settings = [word for setting in arguments.setting for word in ("-s", setting)]
    backbone, size = arguments.backbone or "MobileNet", arguments.size or 224
    model = ["--backbone", backbone] * bool(arguments.backbone) + ["--image-size", str(size)] * bool(arguments.size)
    ways: dict[str, Callable[[Path, int], Outcome]] = {
        "wisesr": lambda folder, seed: train(photos, folder, seed, [*model, *settings], weights),
        "random": lambda folder, seed: train(photos, folder, seed, ["--weights", "none", *settings], weights),
        "keras": lambda _, seed: plain_keras(photos, weights, backbone, size, seed),
    }
    outcomes: dict[str, list[Outcome]] = {way: [] for way in arguments.only}
    for seed in arguments.seeds:
        for way in arguments.only:
            with tempfile.TemporaryDirectory(prefix="wisesr-benchmark-") as folder:
                outcomes[way].append(ways[way](Path(folder), seed))
            print(f"{way}, seed {seed}: {outcomes[way][-1]}", file=sys.stderr, flush=True)
    print(to_markdown(table(outcomes)), end="")


def train(photos: Path, folder: Path, seed: int, options: list[str], weights: Path) -> Outcome:
    """Run `wisesr train` with only these options, and evaluate its run on every split."""
    variables = {"WISESR_WEIGHTS": str(weights)}
    place = ["-o", str(folder), "--name", "run", "--seed", str(seed), "-q"]
    seconds = run_process([wisesr_command(), "train", str(photos), *options, *place], environment=variables).seconds

    def accuracy(split: str) -> float:
        command = [wisesr_command(), "evaluate", str(folder / "run"), "--split", split, "--format", "json", "-q"]
        return float(json.loads(run_process(command, environment=variables).stdout)["top1_accuracy"])

    with (folder / "run" / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    in_training = float(rows[read_model_info(folder / "run" / "best.keras").epoch - 1]["top1_accuracy"])
    return Outcome(in_training, accuracy("train"), accuracy("validation"), accuracy("test"), seconds)


def plain_keras(photos: Path, weights: Path, backbone: str, size: int, seed: int) -> Outcome:
    """Run the guide's program on the same photos and weights."""
    file = weights / f"{backbone.lower()}_notop.weights.h5"
    words = map(str, (photos, backbone, file, size, FROZEN_EPOCHS, TUNING_EPOCHS, seed))
    script = Path(__file__).with_name("plain_keras.py")
    answer = json.loads(run_process([sys.executable, str(script), *words]).stdout.splitlines()[-1])
    print(f"validation by epoch: {answer['by_epoch']}", file=sys.stderr)
    return Outcome(answer["in_training"], answer["train"], answer["validation"], answer["test"], answer["seconds"])


def table(outcomes: dict[str, list[Outcome]]) -> Grid:
    """Return one row for each way of training."""
    titles = ("n", "in training, %", "train, %", "validation, %", "test, %", "95 % interval of the mean", "minutes")
    columns = (*texts("way"), *numbers(*titles))
    return Grid("", columns, tuple(_cells(way, found) for way, found in outcomes.items()))


def _cells(way: str, found: list[Outcome]) -> tuple[str, ...]:
    count, tests = len(found), [100 * outcome.test for outcome in found]
    reach = STUDENT[count] * stdev(tests) / count**0.5 if count in STUDENT else None
    return (
        way,
        str(count),
        f"{mean(100 * outcome.in_training for outcome in found):.1f}",
        f"{mean(100 * outcome.train for outcome in found):.1f}",
        f"{mean(100 * outcome.validation for outcome in found):.1f}",
        f"{mean(tests):.1f}",
        "" if reach is None else f"{mean(tests) - reach:.1f} to {mean(tests) + reach:.1f}",
        f"{mean(outcome.seconds for outcome in found) / 60:.1f}",
    )


if __name__ == "__main__":
    main()
