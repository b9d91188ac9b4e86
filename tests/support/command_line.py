"""Runs command lines in this process or in a fresh one, and makes images for them."""

from __future__ import annotations

import csv
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
WISESR = Path(sys.executable).with_name("wisesr")
CLASSES = ("blue", "green", "red")
SMALL = ("--backbone", "compact_small", "--image-size", "32", "-b", "12", "-s", "model.head.dropout=0")
QUICK = (*SMALL, "--lr", "0.01", "-s", "train.schedule.name=constant")


@dataclass(frozen=True)
class Answer:
    """The result of a command line."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """The whole of standard output as JSON."""
        return json.loads(self.out)

    @property
    def records(self) -> list[dict[str, Any]]:
        """Every line of standard output as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    def finding(self, code: str) -> dict[str, Any]:
        """Return the row of `check --format json` with this code."""
        (row,) = (row for row in self.data["findings"] if row["code"] == code)
        return dict(row)

    def said(self, words: str) -> list[str]:
        """Return the lines on standard error that contain these words."""
        return [line for line in self.err.splitlines() if words in line]

    @property
    def error(self) -> str:
        """The single error line on standard error, which has no traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("wisesr: ")]
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0]
        assert "Traceback" not in self.err
        return lines[0]

    def worked(self) -> Answer:
        """Check that the exit code is 0."""
        assert self.code == 0, self.err
        return self

    def failed(self, code: int, *said: str) -> Answer:
        """Check the exit code, and that the error line contains all of these words."""
        assert self.code == code, self.err
        error = self.error
        assert [words for words in said if words not in error] == [], error
        return self

    def refused(self, code: int, *said: str) -> Answer:
        """Check the same as `failed`, and that nothing was written to standard output."""
        assert self.out == ""
        return self.failed(code, *said)


class CommandLine:
    """Calls `wisesr` in this process and returns what it wrote."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: object) -> Answer:
        self.capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = self.capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    def line(self, words: str, *more: object, **places: object) -> Answer:
        """Call `wisesr` with these words, replacing those that are keys of `places` by their values."""
        return self(*(places.get(word, word) for word in words.split()), *more)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a fresh process whose caches and home are in `folder`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "WISESR", "KERAS"))}
    return {**kept, "WISESR_CACHE_DIR": str(folder / "caches"), "HOME": str(folder), "CUDA_VISIBLE_DEVICES": "-1"}


# Makes the program of a fresh process report each signal that it receives while it defers stops.
TELLS_OF_SIGNALS = """
import os
from wisesr_cli.machine.stopping import StopRequest
receive = StopRequest.receive
def received(request, number, frame):
    receive(request, number, frame)
    os.write(2, b"received\\n")
StopRequest.receive = received
"""


def fresh(
    *arguments: object,
    cwd: Path,
    executable: Path | str = sys.executable,
    program: tuple[str, ...] = ("-m", "wisesr_cli"),
    **options: Any,
) -> Answer:
    """Run `python -m wisesr_cli`, or another program, in a fresh process; its home is `home` or `cwd`."""
    command = [str(executable), *program, *map(str, arguments)]
    variables = {**environment(options.pop("home", cwd)), **options.pop("variables", {})}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 500, **options}
    done = subprocess.run(command, cwd=cwd, env=variables, check=False, **options)
    return Answer(done.returncode, (done.stdout or b"").decode(), done.stderr.decode())


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, column name -> value."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


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


def make_splits(folder: Path, **per_class: int) -> Path:
    """Write the given number of images of each class into each split, all different."""
    for number, (split, count) in enumerate(per_class.items()):
        make_photos(folder / split, count, first_seed=100 * number)
    return folder


@dataclass(frozen=True)
class Trained:
    """A finished run with a test split, and the images that it was trained on."""

    run: Path
    photos: Path

    def copy_to(self, folder: Path) -> Path:
        """Copy the run as training left it, without files that other tests have added since."""
        made_since = "evaluate-*", "explain", "export", "confusion_matrix-*", "reliability-*", ".lock"
        others = shutil.ignore_patterns(*made_since)
        return Path(shutil.copytree(self.run, folder, ignore=others))


def train_apart(folder: Path, photos: Path, *more: str, name: str | None = "run") -> Trained:
    """Train in this process with separate caches, for a run that several tests share; `None` sets no run name."""
    named = ["--name", name] if name else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WISESR_CACHE_DIR", str(photos.parent / "caches"))
        assert run(["train", str(photos), *QUICK, "-o", str(folder), *named, *more]) == 0
    return Trained(folder / (name or ""), photos)


def train_small(folder: Path) -> Trained:
    """Train two epochs on tiny images in this process."""
    photos = make_splits(folder / "photos", train=12, validation=5, test=5)
    return train_apart(folder / "runs", photos, "--epochs", "2", name="tiny")


HEAVY = ("tensorflow", "keras", "jax", "numpy", "pydantic", "yaml", "rich", "PIL", "matplotlib")


KERAS = ("tensorflow", "keras", "jax", "matplotlib")


def loaded_after(code: str, folder: Path) -> tuple[int, set[str], str]:
    """Return exit code, loaded packages and standard error of a fresh process."""
    program = (
        f"import atexit, sys, json\natexit.register(lambda: print('LOADED', json.dumps(sorted(sys.modules))))\n{code}"
    )
    answer = fresh(cwd=folder, program=("-c", program))
    last = next(line for line in reversed(answer.out.splitlines()) if line.startswith("LOADED "))
    return answer.code, {name.partition(".")[0] for name in json.loads(last[7:])}, answer.err


TELL_MEMORY = (
    "import atexit, pathlib, sys\n"
    "status = lambda: pathlib.Path('/proc/self/status').read_text()\n"
    "peak = lambda: [line.split()[1] for line in status().splitlines() if line.startswith('VmHWM')][0]\n"
    "atexit.register(lambda: pathlib.Path('peak').write_text(peak()))\n"
    "from wisesr_cli.__main__ import main\n"
    "main()"
)


def with_peak(folder: Path, *arguments: object) -> tuple[Answer, int]:
    """Run a command in a fresh process; return its answer and its peak memory in megabytes."""
    answer = fresh(*arguments, cwd=folder, program=("-c", TELL_MEMORY))
    return answer, int((folder / "peak").read_text(encoding="ascii")) // 1024


def command(*words: str) -> str:
    return f"sys.argv = ['wisesr', *{list(words)!r}]\nfrom wisesr_cli.__main__ import main\nmain()"
