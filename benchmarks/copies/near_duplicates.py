"""How many copies does `wisesr check --near-duplicates` find, and how many pairs does it report falsely?

    python -m benchmarks.copies.near_duplicates [PHOTOS] [--quick] [--pictures 100000]

Every photo in the folder is copied in every way of `COPIES` and `OTHERS`; of all pairs of a photo and a copy, only
those of the same photo should be found. Then all pairs of photos are compared, whatever split they are in. Last, as
many random descriptors as `--pictures` says are searched for a thousand copies among them.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.measuring import PHOTOS
from benchmarks.speed.images import make_images
from wisesr_cli.data.copies.descriptors import ALIKE, WAVES, Descriptors
from wisesr_cli.data.copies.near_duplicates import NearDuplicates, find_near_duplicates
from wisesr_cli.data.copies.search import find_pairs
from wisesr_cli.data.index import index_from_rows
from wisesr_cli.display.grid import Grid, numbers, texts, to_markdown
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.listening import Silent

PLANTED = 1000
Change = Callable[[Image.Image], Image.Image]


def resized(factor: float, how: Image.Resampling = Image.Resampling.BICUBIC) -> Change:
    return lambda picture: picture.resize((round(picture.width * factor), round(picture.height * factor)), how)


def cut(fraction: float) -> Change:
    return lambda picture: picture.crop((round(picture.width * fraction), 0, picture.width, picture.height))


def half_and_mirrored(picture: Image.Image) -> Image.Image:
    return resized(0.5)(ImageOps.mirror(picture))


# The suffix of the copy's file, the quality that it is written with, and the change to the picture before that.
COPIES: dict[str, tuple[str, int, Change]] = {
    "JPEG, quality 30": (".jpg", 30, lambda picture: picture),
    "JPEG, quality 50": (".jpg", 50, lambda picture: picture),
    "JPEG, quality 75": (".jpg", 75, lambda picture: picture),
    "JPEG, quality 95": (".jpg", 95, lambda picture: picture),
    "PNG": (".png", 0, lambda picture: picture),
    "WebP, quality 80": (".webp", 80, lambda picture: picture),
    "resized by 0.5": (".jpg", 90, resized(0.5)),
    "resized by 0.75": (".jpg", 90, resized(0.75)),
    "resized by 1.5": (".jpg", 90, resized(1.5)),
    "resized by 2": (".jpg", 90, resized(2)),
    "mirrored": (".jpg", 90, ImageOps.mirror),
    "mirrored, resized by 0.5, JPEG, quality 50": (".jpg", 50, half_and_mirrored),
}
# Copies that are not promised to be found.
OTHERS: dict[str, tuple[str, int, Change]] = {
    "resized by 0.5 without averaging, JPEG, quality 30": (".jpg", 30, resized(0.5, Image.Resampling.NEAREST)),
    "brighter by 20 %": (".jpg", 90, lambda picture: picture.point(lambda level: min(255, round(level * 1.2)))),
    "grey": (".jpg", 90, lambda picture: picture.convert("L")),
    "a strip of 10 % cut off": (".jpg", 90, cut(0.1)),
    "a strip of 20 % cut off": (".jpg", 90, cut(0.2)),
}


def save_copy(picture: Image.Image, kind: str, folder: Path, stem: str) -> Path:
    """Write a copy of a picture and return its file."""
    ending, quality, change = (COPIES | OTHERS)[kind]
    path = folder / f"{stem}{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    change(picture).save(path, quality=quality, compress_level=1)  # so that a PNG of a PNG has other bytes
    return path


def main() -> None:
    """Copy the photos, search, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?", default=PHOTOS if PHOTOS.is_dir() else None)
    parser.add_argument("--quick", action="store_true", help="use few photos, to show that it runs")
    parser.add_argument("--pictures", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wisesr-benchmark-") as made:
        folder = Path(made)
        photos = arguments.photos or make_images(folder / "made", 40, (96, 128), "jpg")
        files = [path.absolute() for path in sorted(photos.rglob("*.jpg"))][: 20 if arguments.quick else None]
        rows = [recall(files, kind, folder) for kind in COPIES | OTHERS]
        print(to_markdown(Grid("", (*texts("copy"), *numbers("photos", "found", "recall", "others")), tuple(rows))))
        compared = look([(path, "train", str(number)) for number, path in enumerate(files)])
        pairs = len(files) * (len(files) - 1) // 2
        print(f"\n{pairs:,} pairs of {len(files):,} photos: {len(compared.pairs)} reported as copies")
        for pair in compared.pairs:
            print(*pair.paths)
        print(search(5_000 if arguments.quick else arguments.pictures))


def recall(files: Sequence[Path], kind: str, folder: Path) -> tuple[str, ...]:
    """Return the table row of one kind of copy."""

    def copy(number: int) -> Path:
        with Image.open(files[number]) as photo:
            return save_copy(ImageOps.exif_transpose(photo.convert("RGB")), kind, folder / "copies", str(number))

    with ThreadPoolExecutor() as threads:
        copies = list(threads.map(copy, range(len(files))))
    rows = [*((path, "train", "") for path in files), *((path, "validation", "") for path in copies)]
    wanted = {frozenset((str(path), str(copy))) for path, copy in zip(files, copies, strict=True)}
    pairs = {frozenset(f"/{path}" for path in pair.paths) for pair in look(rows).pairs}
    found = len(pairs & wanted)
    return kind, f"{len(files):,}", f"{found:,}", f"{found / len(files):.4f}", f"{len(pairs - wanted):,}"


def look(rows: Sequence[tuple[Path, str, str]]) -> NearDuplicates:
    """Return the near-duplicates found among rows of path, split and label."""
    labels = sorted({label for _, _, label in rows})
    index = index_from_rows("/", labels, ((str(path)[1:], label, split) for path, split, label in rows))
    return find_near_duplicates(index, (), pixel_limit=PIXEL_LIMIT, listener=Silent())


def search(count: int) -> str:
    """Return how long the search takes among descriptors with random edges, as strong as in photos."""
    random = np.random.default_rng(0)
    pictures = Descriptors.empty(count)
    frequencies = np.hypot(*np.mgrid[:WAVES, :WAVES])
    weights = np.concatenate([frequencies[::2], frequencies[1::2]]).ravel()
    for start in range(0, count, 10_000):
        edges = random.standard_normal((min(10_000, count - start), WAVES**2)) * (weights > 0)
        edges /= np.maximum(weights, 1) ** 0.7
        pictures.edges[start : start + 10_000] = edges / np.linalg.norm(edges, axis=1, keepdims=True)
    pictures.edges[-PLANTED:] = pictures.edges[:PLANTED]
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    found = find_pairs(pictures, np.arange(count), np.full(count, -1), Silent())
    seconds = time.perf_counter() - started
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return (
        f"search among {count:,}: {seconds:.1f} s, {len(found):,} of {PLANTED:,} copies found "
        f"(correlation from {ALIKE:g}), {more:.0f} MiB more than before"
    )


if __name__ == "__main__":
    main()
