"""Commands in any order in a folder with user files: each changes only its own files (promises 45 to 47).

    WISESR_STEPS=1000 WISESR_SEED=7 pytest -m slow tests/promises/test_survives_any_order.py

A step is a command, or something that a user or the machine does: a kill, or a file moved, removed, edited or added.
After it, every user file is unchanged, and of all others only those that the step may change have changed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import pytest
from command_line import QUICK, CommandLine, environment, make_splits
from reliability import Seen

from wisesr_cli.demo import demo as demo_module
from wisesr_cli.demo import harbour

STEPS, SEED = int(os.environ.get("WISESR_STEPS", "60")), int(os.environ.get("WISESR_SEED", str(time.time_ns() % 10**6)))
FINE = {0, 2, 3, 4, 5}  # a command may fail with one of these codes; any other is a bug
MINE = (
    "notes.txt", "export/README.md", "export/mine.onnx", "explain/image-00001-holiday.png", "labels.csv",
    "plots/reliability-mine.png", "evaluate-test/metrics.json", "evaluate-mine/metrics.json",
    "tensorboard/train/events.out.tfevents.1.mine",
    "state/notes.txt",
)  # fmt: skip
CORE = (
    "config.yaml", "classes.json", "splits.csv", "environment.json", "history.csv", "metrics.json", "best.*", "state/*",
    "plots/learning_curves.png", "tensorboard/*", ".written.jsonl", "calibration.json",
)  # fmt: skip


@dataclass
class World:
    """Runs, the user's files in them, and how often each command ended with which code."""

    wisesr: CommandLine
    root: Path
    photos: Path
    dice: random.Random
    mine: dict[Path, bytes] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)

    @property
    def runs(self) -> list[Path]:
        return sorted(path.parent for path in self.root.glob("**/classes.json") if "compared" not in path.parts)

    def a_run(self) -> Path:
        return self.dice.choice(self.runs) if self.runs else self.root / "runs" / "a"

    def files(self) -> dict[Path, bytes]:
        found = (path for path in self.root.rglob("*") if path.is_file() and path.name != ".lock")
        return {path: path.read_bytes() for path in found}

    def call(self, *words: object) -> None:
        answer = self.wisesr(*words)
        assert answer.code in FINE, f"{words}: {answer.code}\n{answer.err}"
        self.done[f"{words[0]} {answer.code}"] += 1


Step = Callable[[World], list[str]]  # performs it, and returns patterns of the files it may change


def train(world: World) -> list[str]:
    name = world.dice.choice(["a", "b", None])
    before = set(world.runs)
    world.call(
        "train", world.photos, *QUICK, "--epochs", 1, "-o", world.root / "runs", *(["--name", name] if name else [])
    )
    return [f"{path}/*" for path in set(world.runs) - before]


def resume(world: World) -> list[str]:
    run = world.a_run()
    epochs = world.dice.randint(1, 4)
    world.call("train", world.photos, *QUICK, "--epochs", epochs, "-o", run.parent, "--name", run.name, "--resume")
    return [f"{run}/{pattern}" for pattern in CORE]


def overwrite(world: World) -> list[str]:
    run = world.a_run()
    world.call("train", world.photos, *QUICK, "--epochs", 1, "-o", run.parent, "--name", run.name, "--overwrite")
    return [f"{run}/*"]


def remove(world: World) -> list[str]:
    run = world.a_run()
    world.call("runs", "remove", run, "--yes")
    return [f"{run}/*"]


def overwrite_without_a_name(world: World) -> list[str]:
    before = world.runs
    world.call("train", world.photos, *QUICK, "--epochs", 1, "-o", world.root / "runs", "--overwrite")
    only = [path for path in before if path.parent.name == "runs" and path.name.startswith("photos-wise")]
    new = [path for path in world.runs if path not in before]
    return [f"{path}/*" for path in (*new, *(only if len(only) == 1 else ()))]


def evaluate(world: World) -> list[str]:
    run = world.a_run()
    data = world.dice.choice([[], ["--split", "validation"], ["--data", world.photos / "test"]])
    world.call("evaluate", run, *data)
    return [
        f"{run}/evaluate-*",
        f"{run}/plots/confusion_matrix-*",
        f"{run}/plots/reliability-*",
        f"{run}/.written.jsonl",
    ]


def export(world: World) -> list[str]:
    run = world.a_run()
    world.call("export", run, "--to", "keras", *world.dice.choice([[], ["--overwrite"]]))
    return [f"{run}/export/*", f"{run}/.written.jsonl"]


def explain(world: World) -> list[str]:
    run = world.a_run()
    world.call("explain", run, *world.dice.choice([[world.photos / "test" / "red"], ["--weights"]]))
    return [f"{run}/explain/*", f"{run}/.written.jsonl"]


def predict(world: World) -> list[str]:
    run = world.a_run()
    out = world.dice.choice([run / "labels.csv", run / "ours.csv", world.root / "ours.csv"])
    world.call("predict", run, world.photos / "test", "--format", "csv", "-o", out)
    return [str(out)]


def compare(world: World) -> list[str]:
    line = (
        "compare",
        world.photos,
        *QUICK,
        "--epochs",
        1,
        "--heads",
        "gap,wise",
        "-o",
        world.root,
        "--name",
        "compared",
    )
    world.call(*line, *world.dice.choice([[], ["--resume"]]))
    return [f"{world.root}/compared/*"]


def demo(world: World) -> list[str]:
    before = set(world.runs)
    place = world.root / "demo"
    made = (place / "runs").glob("*") if place.exists() else ()
    own = [path for path in made if path.name in ("harbour-gap", "harbour-wise")]
    world.call("demo", "-o", place, "--seed", world.dice.randint(0, 3))
    new = [path for path in world.runs if path not in before]
    return [f"{place}/*.*", f"{place}/harbour/*", *(f"{path}/*" for path in (*own, *new))]


def kill(world: World) -> list[str]:
    run = world.a_run()
    words = ["train", world.photos, *QUICK, "--epochs", 50, "-o", run.parent, "--name", run.name, "--resume", "-q"]
    command = [sys.executable, "-m", "wisesr_cli", *map(str, words)]
    process = subprocess.Popen(command, env=environment(world.root.parent), stderr=subprocess.DEVNULL)
    time.sleep(world.dice.uniform(5, 15))
    process.send_signal(signal.SIGKILL)
    process.wait()
    return [f"{run}/{pattern}" for pattern in CORE] + [f"{run}/.wisesr-*", f"{run}/*/.wisesr-*"]


def rename(world: World) -> list[str]:
    run = world.a_run()
    new = run.with_name(f"moved-{world.dice.randint(0, 10**6)}")
    if run.exists():
        run.rename(new)
        world.mine = {
            new / path.relative_to(run) if run in path.parents else path: text for path, text in world.mine.items()
        }
    return [f"{run}/*", f"{new}/*"]


def remove_a_part(world: World) -> list[str]:
    run = world.a_run()
    part = run / world.dice.choice(
        ["state", "best.keras", "metrics.json", "history.csv", "evaluate-validation", "explain"]
    )
    if part.is_dir():
        shutil.rmtree(part)
    else:
        part.unlink(missing_ok=True)
    world.mine = {path: text for path, text in world.mine.items() if path != part and part not in path.parents}
    return [str(part), f"{part}/*"]


def add(world: World) -> list[str]:
    path = world.a_run() / world.dice.choice(MINE)
    if path.parent.parent.exists() and not path.exists():
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(f"mine {world.dice.random()}", encoding="utf-8")
        world.mine[path] = path.read_bytes()
    return [str(path)]


def edit(world: World) -> list[str]:
    patterns = ("evaluate-*/per_class.csv", "export/README.md", "explain/explanations.json", "plots/reliability-*.png")
    results = [
        path for run in world.runs for pattern in patterns for path in run.glob(pattern) if path not in world.mine
    ]
    if not results:
        return []
    path = world.dice.choice(sorted(results))
    path.write_bytes(path.read_bytes() + b" mine")
    world.mine[path] = path.read_bytes()
    return [str(path)]


COMMANDS: dict[Step, int] = {
    train: 4, resume: 5, overwrite: 4, overwrite_without_a_name: 2, evaluate: 6, export: 4, explain: 4, predict: 4,
    remove: 1, compare: 1, demo: 1, kill: 1, rename: 2, remove_a_part: 3, add: 6, edit: 4,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.reliability(45, 46, 47)
@pytest.mark.timeout(max(900, 30 * STEPS))
def test_commands_in_any_order_change_only_their_own_files(
    wisesr: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    make = harbour.make_harbour
    small = {"train_per_class": 4, "test_per_class": 2}
    monkeypatch.setattr(harbour, "make_harbour", lambda folder, **options: make(folder, **{**options, **small}))
    monkeypatch.setattr(demo_module, "CONFIG", demo_module.CONFIG.replace("epochs: 8", "epochs: 1"))
    photos = make_splits(tmp_path / "photos", train=8, validation=4, test=4)
    root = tmp_path / "root"
    (root / "runs").mkdir(parents=True)
    world = World(wisesr, root, photos, random.Random(SEED))
    for number in range(STEPS):
        step = world.dice.choices(list(COMMANDS), list(COMMANDS.values()))[0]
        before = world.files()
        allowed = step(world)
        after = world.files()
        where = f"WISESR_SEED={SEED}, step {number}, {step.__name__}"
        lost = [path for path, content in world.mine.items() if after.get(path) != content]
        assert not lost, f"{where}: files of the user: {lost}"
        changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
        others = [path for path in changed if not any(fnmatch(str(path), pattern) for pattern in allowed)]
        assert not others, f"{where}: {others}"
    seen(f"{STEPS} steps, seed {SEED}: {len(world.mine)} user files unchanged; {dict(sorted(world.done.items()))}")
