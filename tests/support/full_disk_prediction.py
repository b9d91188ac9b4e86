"""Predicts into files on small disks of growing sizes; run in a user and mount namespace of its own: unshare -rm.

Arguments: a run, a folder of images, a format, and an empty folder to mount disks on. Prints a line of JSON with a row
per disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from wisesr_cli.cli.main import run

LAST_KILOBYTES = 4096  # room for everything
SIZES = range(4, 200, 12)


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def predict(*line: str) -> tuple[int, str]:
    """Run the command line; return its exit code and what it wrote to standard error."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        return run(["predict", *line]), said.getvalue()


def try_disk(line: list[str], disk: Path, kilobytes: int) -> dict[str, Any]:
    """Predict on a disk of this size, then go on with more room."""
    mount(disk, f"size={kilobytes}k")
    try:
        output = disk / "out"
        code, said = predict(*line, "-o", str(output))
        left = sorted(path.name for path in disk.iterdir())
        lines = (disk / "out.partial").read_bytes().count(b"\n") if "out.partial" in left else 0
        mount(disk, f"size={LAST_KILOBYTES}k,remount")
        resumed, said_then = predict(*line, "-o", str(output), "--resume")
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
    finally:
        subprocess.run(["umount", disk], check=True)


def read_only(line: list[str], disk: Path) -> dict[str, Any]:
    """Predict onto a disk that nobody may write to."""
    mount(disk, "ro")
    try:
        code, said = predict(*line, "-o", str(disk / "out"))
        return {"code": code, "said": said}
    finally:
        subprocess.run(["umount", disk], check=True)


def main(trained: str, photos: str, chosen: str, disk: Path) -> None:
    """Try a disk that cannot be written to, then disks that are too small until one is large enough."""
    line = [trained, photos, "--format", chosen]
    print(json.dumps([read_only(line, disk), *(try_disk(line, disk, kilobytes) for kilobytes in SIZES)]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
