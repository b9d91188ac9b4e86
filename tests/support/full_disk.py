"""Trains, or predicts into files, on small disks of growing size; run it in its own namespace: unshare -rm.

Arguments: `train`, a folder of images, and a folder to work in; or `predict`, a run, a folder of images, a format, and
an empty folder to mount disks on. Prints one line of JSON with a row per disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from command_line import QUICK
from run_states import check_whole, digest, leftovers

from wisesr_cli.cli.main import run

TRAININGS = 12
PREDICTIONS = range(4, 200, 12)  # kilobytes
LAST_KILOBYTES = 4096  # enough for everything


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    mount(folder, options)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def wisesr(*line: str) -> tuple[int, str]:
    """Run the command line; return its exit code and what it wrote to standard error."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        return run([*line]), said.getvalue()


def train(photos: Path, disk: Path, *more: str) -> tuple[int, str]:
    return wisesr("train", str(photos), *QUICK, "--epochs", "2", "-o", str(disk), "--name", "run", *more)


def needed_kilobytes(disk: Path) -> int:
    blocks = subprocess.run(["du", "-sk", disk], check=True, capture_output=True, text=True).stdout
    return int(blocks.split()[0])


def train_on_disk(photos: Path, disk: Path, kilobytes: int, *more: str) -> dict[str, Any]:
    """Train on a disk of this size, then resume with more space."""
    with mounted(disk, f"size={kilobytes}k"):
        code, said = train(photos, disk, *more)
        progress = check_whole(disk / "run")
        mount(disk, f"size={LAST_KILOBYTES}k,remount")
        resumed, said_then = train(photos, disk, "--resume", *more) if code else (0, "")
        return {
            "kilobytes": kilobytes,
            "code": code,
            "said": said[-2000:],
            "epochs": progress.epoch if progress else None,
            "resumed": resumed,
            "said_then": said_then[-2000:] if resumed else "",
            "digest": digest(disk / "run"),
            "leftovers": leftovers(disk / "run"),
        }


def full_cache(photos: Path, disk: Path, caches: Path) -> dict[str, Any]:
    """Train with only the folder of caches on a full disk."""
    caches.mkdir()
    mount(caches, "size=8k")
    (caches / "fill").write_bytes(bytes(4096))
    os.environ["WISESR_CACHE_DIR"] = str(caches)
    return {**train_on_disk(photos, disk, LAST_KILOBYTES, "-s", "data.cache=disk"), "kilobytes": "caches"}


def trainings(photos: Path, folder: Path) -> list[dict[str, Any]]:
    """Measure the space that is needed, then train with parts of it, with full caches, and finally with enough."""
    disk = folder / "disk"
    disk.mkdir()
    with mounted(disk, f"size={LAST_KILOBYTES}k"):
        code, said = train(photos, disk)
        assert code == 0, said
        needed = needed_kilobytes(disk)
    rows = [train_on_disk(photos, disk, max(4, needed * number // TRAININGS)) for number in range(TRAININGS)]
    rows.append(full_cache(photos, disk, folder / "small caches"))
    rows.append(train_on_disk(photos, disk, LAST_KILOBYTES))
    shutil.rmtree(folder / "small caches", ignore_errors=True)
    return rows


def predict_on_disk(line: list[str], disk: Path, kilobytes: int) -> dict[str, Any]:
    """Predict on a disk of this size, then resume with more space."""
    output = disk / "out"
    with mounted(disk, f"size={kilobytes}k"):
        code, said = wisesr(*line, "-o", str(output))
        left = sorted(path.name for path in disk.iterdir())
        lines = (disk / "out.partial").read_bytes().count(b"\n") if "out.partial" in left else 0
        mount(disk, f"size={LAST_KILOBYTES}k,remount")
        resumed, said_then = wisesr(*line, "-o", str(output), "--resume")
        return {
            "kilobytes": kilobytes,
            "code": code,
            "said": said,
            "left": left,
            "journal_lines": lines,
            "resumed": resumed,
            "said_then": said_then,
            "digest": hashlib.sha256(output.read_bytes()).hexdigest(),
            "left_then": sorted(path.name for path in disk.iterdir()),
        }


def predictions(trained: str, photos: str, chosen: str, disk: Path) -> list[dict[str, Any]]:
    """Try a read-only disk, then disks of growing size, from too small to large enough."""
    line = ["predict", trained, photos, "--format", chosen]
    with mounted(disk, "ro"):
        code, said = wisesr(*line, "-o", str(disk / "out"))
    return [{"code": code, "said": said}, *(predict_on_disk(line, disk, kilobytes) for kilobytes in PREDICTIONS)]


if __name__ == "__main__":
    what, *places = sys.argv[1:]
    if what == "train":
        print(json.dumps(trainings(Path(places[0]), Path(places[1]))))
    else:
        print(json.dumps(predictions(*places[:3], Path(places[3]))))
