"""What do the training aids gain on photos? Compares each one alone with the plain recipe, seed by seed.

    python -m benchmarks.recipe.aids PHOTOS --weights-dir FOLDER [--seeds 0 1 2 3 4] [--only NAME ...]
    python -m benchmarks.recipe.aids PHOTOS --quick        # one epoch from random weights; only printed
    python -m benchmarks.recipe.aids --write-only          # only rewrites docs/aids.md from docs/aids.json

PHOTOS has train/, validation/ and test/; FOLDER has the ImageNet weights of MobileNet. The recipe is that of `wisesr
train PHOTOS` at 96 pixels. A training that is in docs/aids.json is not repeated, so the same command continues after an
interruption. The test split is used once, at the end of a training.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.pages import DOCS, keep_figures, machine, read_figures, write_between_marks
from benchmarks.recipe.photos import STUDENT
from wisesr_cli import api
from wisesr_cli.config.training import AUGMENTATIONS
from wisesr_cli.display.grid import Grid, numbers, texts, to_markdown
from wisesr_cli.training.train import TrainingOptions

PAGE, FIGURES = DOCS / "aids.md", DOCS / "aids.json"
BASE = "the recipe"
IMAGE_SIZE = 96
RECIPE = {"model.backbone": "MobileNet", "model.weights": "imagenet", "data.image_size": IMAGE_SIZE}
QUICK = {"model.backbone": "compact_small", "model.weights": "none", "data.image_size": 32, "train.epochs": 1}


def main() -> None:
    """Do the requested trainings that are not stored yet, and write or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--weights-dir", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2, 3, 4))
    parser.add_argument("--only", nargs="+", choices=AIDS, default=tuple(AIDS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        print(to_markdown(table({name: {0: train(arguments.photos, name, 0, QUICK)} for name in (BASE, "focal")})))
        return
    if not arguments.write_only:
        os.environ["WISESR_WEIGHTS"] = str(arguments.weights_dir.absolute())
        for seed in arguments.seeds:
            for name in arguments.only:
                if str(seed) not in read_figures(FIGURES).get(name, {}):
                    found = train(arguments.photos, name, seed, RECIPE)
                    known = read_figures(FIGURES).get(name, {})
                    keep_figures(FIGURES, name, {**known, str(seed): found}, order=ORDER)
                    keep_figures(FIGURES, "machine", machine(), order=ORDER)
                    print(f"{name}, seed {seed}: {found}", file=sys.stderr, flush=True)
    kept = read_figures(FIGURES)
    about = kept.pop("machine", "")
    shown = table({name: {int(seed): figures for seed, figures in of.items()} for name, of in kept.items()})
    write_between_marks(PAGE, "benchmarks.recipe.aids", {"table": f"{to_markdown(shown)}\nOn {about}.\n"})


def train(photos: Path, name: str, seed: int, base: dict[str, Any]) -> dict[str, float]:
    """Train with one aid and return the accuracies, and the epoch of the model that was kept."""
    with tempfile.TemporaryDirectory(prefix="wisesr-benchmark-") as folder:
        place = {"name": "run", "output_dir": folder, "seed": seed}
        settings = {**base, **AIDS[name], **place}
        result = api.train(photos.absolute(), settings, options=TrainingOptions(shared_maps=SHARED_MAPS))
        accuracies = {
            split: float(api.evaluate(result.run_dir, split=split).metrics.top1_accuracy or 0.0)
            for split in ("validation", "test")
        }
        return {**accuracies, "epoch": float(result.best_epoch or 0)}


def table(figures: dict[str, dict[int, dict[str, float]]]) -> Grid:
    """Return a row per aid: its accuracies, and its difference from the recipe, paired by seed."""
    titles = ("n", "validation, %", "test, %", "test - recipe, points", "95 % interval")
    columns = (*texts("aid", "setting"), *numbers(*titles))
    return Grid("", columns, tuple(_cells(name, of, figures.get(BASE, {})) for name, of in figures.items()))


def _cells(name: str, found: dict[int, dict[str, float]], base: dict[int, dict[str, float]]) -> tuple[str, ...]:
    tests = [100 * each["test"] for each in found.values()]
    differences = [100 * (each["test"] - base[seed]["test"]) for seed, each in found.items() if seed in base]
    count = len(differences)
    is_compared = name != BASE and count > 0
    reach = STUDENT[count] * stdev(differences) / count**0.5 if is_compared and count in STUDENT else None
    spread = f" ± {stdev(tests):.1f}" if len(tests) > 1 else ""
    return (
        name,
        f"augment.{name}: {AUGMENTING[name]}"
        if name in AUGMENTING
        else ", ".join(f"{k}: {v}" for k, v in AIDS[name].items()),
        str(len(found)),
        f"{mean(100 * each['validation'] for each in found.values()):.1f}",
        f"{mean(tests):.1f}{spread}",
        f"{mean(differences):+.1f}" if is_compared else "",
        "" if reach is None else f"{mean(differences) - reach:+.1f} to {mean(differences) + reach:+.1f}",
    )


def _augment(name: str, value: float) -> dict[str, Any]:
    """Return the recipe's augmentation, `light`, with one more operation."""
    return {"augment": AUGMENTATIONS["light"].model_copy(update={name: value}).model_dump(mode="json")}


SHARED_MAPS: dict[str, Any] = {}  # of the frozen phase, shared by all trainings of this process
AUGMENTING = {"mixup": 0.2, "cutmix": 1.0, "random_erasing": 0.25, "rand_augment": 0.1}
AIDS: dict[str, dict[str, Any]] = {
    BASE: {},
    **{name: _augment(name, value) for name, value in AUGMENTING.items()},
    "ema": {"train.ema": 0.95},
    "focal": {"train.loss": "focal"},
    "label smoothing": {"train.label_smoothing": 0.1},
}
ORDER = (*AIDS, "machine")


if __name__ == "__main__":
    main()
