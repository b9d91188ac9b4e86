"""How long does `wisesr` take to scan a folder of 100,000 images, the first and the second time?

    python -m benchmarks.speed.scan [--quick] [--repetitions N] [--json FILE]

The scan lists the class folders and reads the size, format and orientation of every image, and a hash of its first and
last bytes; the second time, it compares file size and modification time with its cache. The first time is measured with
the files on the disk, as after copying a dataset or starting the machine (their pages are dropped from memory before),
and with the files in memory. The size of the cache is also reported. Files: JPEG, 32x32.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measuring import Answer, Question, Settings, main
from benchmarks.speed.images import make_images
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.data.survey import survey
from wisesr_cli.listening import Silent

FROM_DISK = Question("scan of {:,} images, second time", "first time, files on disk", "seconds", reach=0.1)
FROM_MEMORY = Question("scan of {:,} images, second time", "first time, files in memory", "seconds", reach=0.1)


def measure(settings: Settings) -> Iterator[Answer]:
    """Yield the second scan against the first one, with the files on the disk and in memory."""
    count = 5_000 if settings.quick else 100_000
    folder = settings.folder / "images"
    spread_out(make_images(settings.folder / "made", 1_000, (32, 32), "jpg"), folder, count)
    os.environ["WISESR_CACHE_DIR"] = str(settings.folder / "caches")
    for question, prepare in ((FROM_DISK, drop_pages), (FROM_MEMORY, len)):
        first, second = [], []
        for _ in range(settings.repetitions):
            shutil.rmtree(settings.folder / "caches", ignore_errors=True)
            prepare([str(path) for path in folder.rglob("*.jpg")])
            first.append(scan(folder))
            second.append(scan(folder))
        kept = sum(path.stat().st_size for path in (settings.folder / "caches").rglob("*") if path.is_file())
        note = (
            f"the cache keeps {kept / count:.1f} bytes per image, including paths of {len('class0/000000.jpg')} bytes"
        )
        if question is FROM_MEMORY:
            note += "; both scans list the folders: most of the second one's time, and no disk access in the first"
        yield Answer(
            Question(question.name.format(count), question.baseline, question.unit, question.reach),
            second,
            first,
            note,
        )


def scan(folder: Path) -> float:
    """Return the duration of a scan in seconds."""
    started = time.perf_counter()
    survey(DataConfig(dir=folder), listener=Silent())
    return time.perf_counter() - started


def spread_out(source: Path, folder: Path, count: int) -> None:
    """Write `count` files in ten class folders, cycling through the contents of those in `source`."""
    contents = [path.read_bytes() for path in sorted(source.rglob("*.jpg"))]
    for number in range(count):
        path = folder / f"class{number % 10}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(contents[number % len(contents)])
    os.sync()


def drop_pages(paths: list[str]) -> None:
    """Drop the content of files from the machine's page cache, but not their names."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


if __name__ == "__main__":
    main(__doc__, measure)
