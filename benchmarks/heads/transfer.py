"""Compares heads on frozen ImageNet features, and writes the tables of docs/heads.md.

    python -m benchmarks.heads.transfer --weights-dir FOLDER --photos PHOTOS --stamps STAMPS
    python -m benchmarks.heads.transfer --weights-dir FOLDER --pictures NAME=FOLDER ...   # your own; only printed
    python -m benchmarks.heads.transfer ... --only photos-MobileNet-224    # some cells
    python -m benchmarks.heads.transfer ... --only CELL --again            # once more, compared with what is kept
    python -m benchmarks.heads.transfer --write-only                       # only rewrites the page

FOLDER has the ImageNet weights of MobileNet and Xception, as `wisesr weights list` names them; without --weights-dir,
they are searched for in WISESR_WEIGHTS. PHOTOS and STAMPS are those of `pictures`. A head that was trained in
`--folder` is not trained again, so the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.heads.blocks import FOLDER
from benchmarks.heads.cells import CELLS, COMMANDS, ORDER, QUICK, SEEDS, Cell
from benchmarks.heads.compare import receptive_field
from benchmarks.heads.maps import Features, Source, features_of
from benchmarks.heads.pictures import made_harbour, make_all
from benchmarks.heads.transfer_page import FIGURES, cells_table, write_document
from benchmarks.heads.trials import Trial
from benchmarks.measuring import errors_in_a_line
from benchmarks.pages import keep_figures, machine, read_figures
from wisesr_cli import api
from wisesr_cli.comparison.bootstrap import paired_interval
from wisesr_cli.config.reader import parse_head
from wisesr_cli.display.terminal import TerminalListener
from wisesr_cli.errors import UsageError
from wisesr_cli.machine import keras_start
from wisesr_cli.models.at_hand import WEIGHTS_FOLDER, find_weights, own_name
from wisesr_cli.models.heads import HeadOptions, WiseOptions, head_parameters
from wisesr_cli.text import joined


@dataclass(frozen=True)
class Trained:
    """The stored results of a head in a cell: which answers to test images are right, and facts about the training.

    `correct` is (seeds, images) at the chosen learning rate; `by_rate` has such an array for every rate.
    """

    correct: NDArray[np.bool_]
    about: dict[str, Any]
    by_rate: dict[str, NDArray[np.bool_]] = field(default_factory=dict)


def train_cell(cell: Cell, features: Features, folder: Path) -> dict[str, Trained]:
    """Return all heads of a cell, training those that the folder does not have."""
    from benchmarks.heads.candidates import CANDIDATES, READS
    from benchmarks.heads.trials import builder, chosen_rate, reduced_maps, trials_of

    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Trained] = {}
    parts = [features] if cell.folds is None else features.folds(cell.folds)
    for head in cell.heads:
        path = folder / f"{head.replace(':', '-').replace('=', '-')}.npz"
        if not path.exists():
            started = time.monotonic()
            is_candidate = head in CANDIDATES
            options: HeadOptions = READS.get(head, WiseOptions()) if is_candidate else parse_head(head)
            build = (CANDIDATES[head] if is_candidate else builder)(options, features.shape)
            trials = [
                trial
                for part in parts
                for trial in trials_of(
                    build,
                    reduced_maps(part, options),
                    part.labels,
                    len(part.class_names),
                    seeds=range(SEEDS),
                )
            ]
            rate = chosen_rate(trials)
            own = [trial for trial in trials if trial.rate == rate]
            about = {
                "rate": rate,
                "epoch": round(float(np.mean([trial.epoch for trial in own])), 1),
                "validation": {
                    f"{each:g}": round(float(np.mean([t.validation for t in trials if t.rate == each])), 4)
                    for each in dict.fromkeys(trial.rate for trial in trials)
                },
                "parameters": None
                if is_candidate
                else head_parameters(features.shape, len(features.class_names), options),
                "seconds": round(time.monotonic() - started, 1),
            }
            by_rate = {f"{each:g}": _joined(trials, each) for each in dict.fromkeys(trial.rate for trial in trials)}
            _save(path, Trained(by_rate[f"{rate:g}"], about, by_rate))
            accuracy = 100 * by_rate[f"{rate:g}"].mean()
            print(f"  {head}: {accuracy:.1f} % at {rate:g}, {about['seconds']} s", file=sys.stderr, flush=True)
            keras_start.forget_models()
        found[head] = _load(path)
    return found


def _joined(trials: Sequence[Trial], rate: float) -> NDArray[np.bool_]:
    """Return which answers are right at a learning rate: (seeds, images of all folds)."""
    own = [trial for trial in trials if trial.rate == rate]
    return np.stack([np.concatenate([trial.correct for trial in own if trial.seed == seed]) for seed in range(SEEDS)])


def _save(path: Path, trained: Trained) -> None:
    unfinished = path.with_suffix(".part.npz")
    rates = {f"at-{rate}": correct for rate, correct in trained.by_rate.items()}
    np.savez(unfinished, correct=trained.correct, about=np.array(json.dumps(trained.about)), **rates)
    unfinished.rename(path)


def _load(path: Path) -> Trained:
    with np.load(path, allow_pickle=False) as found:
        by_rate = {name.removeprefix("at-"): found[name] for name in found.files if name.startswith("at-")}
        return Trained(found["correct"], json.loads(str(found["about"])), by_rate)


def figures(cell: Cell, features: Features, heads: Mapping[str, Trained]) -> dict[str, Any]:
    """Return the figures of a cell for docs/transfer.json: every head, and its paired differences from GAP and Wise."""
    return {
        "pictures": cell.pictures,
        "backbone": cell.backbone,
        "image_size": cell.image_size,
        "layer": cell.layer,
        "per_class": cell.per_class,
        "classes": len(features.class_names),
        "folds": cell.folds,
        "images": {name: len(labels) for name, labels in features.labels.items()},
        "feature_map": list(features.shape),
        **receptive_field(_backbone_settings(cell)),
        "heads": {head: _figures_of(trained, heads) for head, trained in heads.items()},
        "machine": machine(),
        "measured": time.strftime("%Y-%m-%d"),
    }


def _backbone_settings(cell: Cell) -> dict[str, Any]:
    return {"model.backbone": cell.backbone, "data.image_size": cell.image_size, "model.feature_layer": cell.layer}


def _figures_of(trained: Trained, heads: Mapping[str, Trained]) -> dict[str, Any]:
    accuracies = trained.correct.mean(axis=1)
    return {
        **trained.about,
        "accuracies": [round(float(value), 5) for value in accuracies],
        **{f"to_{other}": difference(trained, heads[other]) for other in ("gap", "wise")},
        "to_wise_by_rate": {
            rate: difference(Trained(correct, {}), Trained(heads["wise"].by_rate[rate], {}))
            for rate, correct in trained.by_rate.items()
            if trained is not heads["wise"] and rate in heads["wise"].by_rate
        },
    }


def difference(one: Trained, other: Trained) -> list[float] | None:
    """Return the mean accuracy difference, paired by seed and image, with its 95 % interval; None for the same head."""
    if one is other:
        return None
    pairs = list(one.correct.astype(np.int64) - other.correct)
    return [float(np.mean(pairs)), *paired_interval(pairs, same_examples=True)]


def run_cell(cell: Cell, pictures: Path, folder: Path) -> dict[str, Any]:
    """Train the missing heads of a cell and return its figures."""
    print(f"== {cell.name}", file=sys.stderr, flush=True)
    source = Source(pictures, cell.backbone, cell.image_size, cell.layer, cell.weights)
    features = features_of(source, folder / "maps")
    if cell.per_class is not None:
        features = features.few(cell.per_class)
    return figures(cell, features, train_cell(cell, features, folder / "transfer" / cell.name))


def run_command(name: str, photos: Path, folder: Path) -> dict[str, Any]:
    """Return the figures of a comparison by `wisesr compare` on photos, resuming from what is in the folder."""
    print(f"== {name}", file=sys.stderr, flush=True)
    heads, seeds, settings = COMMANDS[name]
    place = {"output_dir": str(folder.resolve()), "name": name}
    listener = TerminalListener()
    result = api.compare(photos, {**settings, **place}, heads=heads, seeds=seeds, resume=True, listener=listener)
    rows = result.to_json()["rows"]
    trained = {
        head: [training.top1_accuracy for training in result.trainings if training.head == head] for head in heads
    }
    plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    chosen = [part for key, value in plain.items() for part in ("-s", f"{key}={value}")]
    typed = ["wisesr", "compare", "PHOTOS", "--heads", ",".join(heads), "--seeds", str(seeds), *chosen]
    return {
        "command": shlex.join(typed),
        "examples": result.examples,
        "heads": {
            row["head"]: {
                "accuracies": trained[row["head"]],
                "to_gap": row["difference_to_first_ci95"]
                and [row["difference_to_first_mean"], *row["difference_to_first_ci95"]],
                "seconds_per_epoch": row["seconds_per_epoch_mean"],
            }
            for row in rows
        },
        "machine": machine(),
        "measured": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    """Compare the requested cells, and write or print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights-dir", type=Path, metavar="FOLDER")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--stamps", type=Path)
    parser.add_argument("--pictures", action="append", default=[], metavar="NAME=FOLDER", help="your own pictures")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"where results are kept; default: {FOLDER}")
    parser.add_argument("--only", nargs="+", default=ORDER, choices=ORDER, metavar="CELL", help=", ".join(ORDER))
    parser.add_argument("--again", action="store_true", help="train again, and compare with the stored accuracies")
    parser.add_argument("--write-only", action="store_true", help="only rewrite the page")
    parser.add_argument("--quick", action="store_true", help="one small cell from random weights; only printed")
    arguments = parser.parse_args()
    if arguments.weights_dir is not None:
        os.environ[WEIGHTS_FOLDER] = str(arguments.weights_dir.absolute())
    with errors_in_a_line():
        _run(arguments)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.write_only:
        write_document()
        return
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            drawn = made_harbour(Path(folder), 8, 2)
            print(cells_table({QUICK.name: run_cell(QUICK, drawn, Path(folder))}))
        return
    _need_weights(cell.backbone for cell in CELLS if cell.name in arguments.only or arguments.pictures)
    keras_start.start("cpu")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.pictures:
        own = dict(text.split("=", 1) for text in arguments.pictures)
        cells = [Cell(name) for name in own]
        print(cells_table({cell.name: run_cell(cell, Path(own[cell.pictures]), arguments.folder) for cell in cells}))
        return
    sets = make_all(arguments.folder, photos=arguments.photos, stamp_folder=arguments.stamps)
    for name in arguments.only:
        if name in COMMANDS:
            if "photos" in sets:
                keep_figures(FIGURES, name, run_command(name, sets["photos"], arguments.folder), order=ORDER)
            continue
        cell = next(cell for cell in CELLS if cell.name == name)
        if cell.pictures not in sets:
            print(f"skipped: {name}", file=sys.stderr)
        elif arguments.again:
            with tempfile.TemporaryDirectory() as folder:
                _print_repeat(name, run_cell(cell, sets[cell.pictures], Path(folder)))
        else:
            keep_figures(FIGURES, name, run_cell(cell, sets[cell.pictures], arguments.folder), order=ORDER)
    if not arguments.again:
        write_document()


def _need_weights(backbones: Iterable[str]) -> None:
    """Raise a `UsageError` that says which weights are missing, before anything is computed."""
    if missing := sorted(name for name in set(backbones) if find_weights(name) is None):
        raise UsageError(
            f"no ImageNet weights of {joined(missing)} are on this machine: give --weights-dir FOLDER with "
            f"{joined(own_name(name) for name in missing)}, or fetch them with: wisesr weights fetch {missing[0]}"
        )


def _print_repeat(name: str, found: dict[str, Any]) -> None:
    """Print every head's accuracies next to the stored ones."""
    kept = read_figures(FIGURES)[name]["heads"]
    for head, own in found["heads"].items():
        now, before = own["accuracies"], kept[head]["accuracies"]
        print(f"{name}, {head}: {'equal' if now == before else f'{now} was {before}'}")


if __name__ == "__main__":
    main()
