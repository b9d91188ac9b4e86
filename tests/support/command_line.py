"""Runs command lines in this process or in a fresh one, and makes the images that they are run on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wisesr_cli.cli.main import run

REPOSITORY = Path(__file__).parents[2]
CLASSES = ("blue", "green", "red")
SMALL = ("--backbone", "compact_small", "--image-size", "32", "-b", "12")
QUICK = (*SMALL, "--lr", "0.01", "-s", "train.schedule.name=constant")


@dataclass(frozen=True)
class Answer:
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The whole of standard output as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line on standard error that says what is wrong; there is no traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("wisesr: ")]
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0]
        assert "Traceback" not in self.err
        return lines[0]


class CommandLine:
    """Calls `wisesr` in this process and gives what it wrote."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> Answer:
        self.capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = self.capsys.readouterr()
        return Answer(code, captured.out, captured.err)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a fresh process whose caches and home are in `folder`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "WISESR", "KERAS"))}
    return {**kept, "WISESR_CACHE_DIR": str(folder / "caches"), "HOME": str(folder), "CUDA_VISIBLE_DEVICES": "-1"}


def fresh(*arguments: object, cwd: Path, program: tuple[str, ...] = ("-m", "wisesr_cli"), **options: Any) -> Answer:
    """Run `python -m wisesr_cli` in a fresh process."""
    command = [sys.executable, *program, *map(str, arguments)]
    variables = {**environment(cwd), **options.pop("variables", {})}
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, timeout=120, check=False, **options)
    return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())


def make_photo(path: Path, label: int, seed: int, size: tuple[int, int] = (32, 32)) -> Path:
    """Write noise with a strong blue, green or red, which a network learns in a few steps."""
    pixels = np.random.default_rng([label, seed]).integers(0, 120, (*size, 3), dtype=np.uint8)
    pixels[..., 2 - label] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def make_photos(folder: Path, per_class: int, *, first_seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Path:
    """Write `per_class` images of each class into its folder."""
    for name in classes:
        label = CLASSES.index(name) if name in CLASSES else len(name) % 3
        for number in range(per_class):
            make_photo(folder / name / f"{number:02}.png", label, first_seed + number)
    return folder


@dataclass(frozen=True)
class Trained:
    """A finished run with a test split, and the images that it was trained on."""

    run: Path
    photos: Path

    def copy_to(self, folder: Path) -> Path:
        """Copy the run as training left it, without what other tests evaluated since."""
        others = shutil.ignore_patterns("evaluate-*", "confusion_matrix-*", "reliability-*", ".lock")
        return Path(shutil.copytree(self.run, folder, ignore=others))


def train_small(folder: Path) -> Trained:
    """Train two epochs on tiny images in this process."""
    photos = folder / "photos"
    for number, (split, per_class) in enumerate((("train", 12), ("validation", 5), ("test", 5))):
        make_photos(photos / split, per_class, first_seed=100 * number)
    assert run(["train", str(photos), *QUICK, "--epochs", "2", "-o", str(folder / "runs"), "--name", "tiny"]) == 0
    return Trained(folder / "runs" / "tiny", photos)
