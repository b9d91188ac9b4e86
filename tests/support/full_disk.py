"""Trains on small disks of growing sizes; run in a user and mount namespace of its own: unshare -rm.

Arguments: a folder of images, and a folder to work in. Prints a line of JSON with a row per disk.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from command_line import QUICK
from run_states import check_whole, digest, leftovers

from wisesr_cli.cli.main import run

SIZES = 12
LAST_KILOBYTES = 4096  # room for everything


def mount(folder: Path, kilobytes: int, *, again: bool = False) -> None:
    options = f"size={kilobytes}k" + (",remount" if again else "")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def train(photos: Path, disk: Path, *more: str) -> tuple[int, str]:
    """Run the command line; return its exit code and what it wrote to standard error."""
    line = ["train", str(photos), *QUICK, "--epochs", "2", "-o", str(disk), "--name", "run", *more]
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        return run(line), said.getvalue()


def needed_kilobytes(disk: Path) -> int:
    blocks = subprocess.run(["du", "-sk", disk], check=True, capture_output=True, text=True).stdout
    return int(blocks.split()[0])


def try_disk(photos: Path, disk: Path, kilobytes: int, *more: str) -> dict[str, Any]:
    """Train on a disk of this size, then go on with more room."""
    mount(disk, kilobytes)
    try:
        code, said = train(photos, disk, *more)
        progress = check_whole(disk / "run")
        mount(disk, LAST_KILOBYTES, again=True)
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
    finally:
        subprocess.run(["umount", disk], check=True)


def full_cache(photos: Path, disk: Path, caches: Path) -> dict[str, Any]:
    """Train where only the folder of caches is on a full disk."""
    caches.mkdir()
    mount(caches, 8)
    (caches / "fill").write_bytes(bytes(4096))
    os.environ["WISESR_CACHE_DIR"] = str(caches)
    return {**try_disk(photos, disk, LAST_KILOBYTES, "-s", "data.cache=disk"), "kilobytes": "caches"}


def main(photos: Path, folder: Path) -> None:
    """Measure the room that is needed, then train with parts of it, the last time with all."""
    disk = folder / "disk"
    disk.mkdir()
    mount(disk, LAST_KILOBYTES)
    code, said = train(photos, disk)
    assert code == 0, said
    needed = needed_kilobytes(disk)
    subprocess.run(["umount", disk], check=True)
    rows = [try_disk(photos, disk, max(4, needed * number // SIZES)) for number in range(SIZES)]
    rows.append(full_cache(photos, disk, folder / "small caches"))
    rows.append(try_disk(photos, disk, LAST_KILOBYTES))
    shutil.rmtree(folder / "small caches", ignore_errors=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
