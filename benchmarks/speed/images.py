"""How fast do images reach a model, from an image folder to uint8 or float batches of one size?

    python -m benchmarks.speed.images [--quick] [--repetitions N] [--json FILE]

The baseline is `keras.utils.image_dataset_from_directory`, without `.cache()`, which its plain use does not have. The
first pass counts everything from the folder's name to the last batch of 32: listing the files, and with wisesr also
the check of every header and of every file to its end. Later passes are what each further epoch waits for. Both are
fresh processes that have loaded their libraries, and gone over a small folder, before the clock starts; neither has
seen the folder. The files are in the machine's memory, as they were just written or read. wisesr resizes with
antialiasing, Keras without.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measuring import Answer, Question, Settings, alternate, main, run_process

KERAS = "image_dataset_from_directory"
FIRST = Question("first pass", KERAS, "images/s")
LATER = Question("later passes", KERAS, "images/s", 5, 10)
BASELINE = Path(__file__).parent / "baselines" / "keras_images.py"

WISESR = """
import json, os, sys, tempfile, time
from pathlib import Path
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.data.dataset import build_index
from wisesr_cli.data.pixels import epoch_order, open_pixels
from wisesr_cli.listening import Silent

def seconds(folder, side, later):
    started = time.perf_counter()
    index = build_index(DataConfig(dir=Path(folder), validation_split=0), seed=0, listener=Silent())
    pixels = open_pixels(
        index.absolute("train"), image_size=(side, side), preparation=Preparation(), cache="auto", on_error="fail",
        listener=Silent(),
    )
    passes = []
    for epoch in range(1 + later):
        order = epoch_order(len(pixels), seed=0, epoch=epoch)
        for start in range(0, len(order), 32):
            pixels.batch(order[start : start + 32])
        passes.append(time.perf_counter() - started)
        started = time.perf_counter()
    pixels.close()
    return passes

folder, side, small = sys.argv[1:]
with tempfile.TemporaryDirectory() as caches:
    os.environ["WISESR_CACHE_DIR"] = caches
    seconds(small, int(side), 1)
    print(json.dumps(seconds(folder, int(side), 3)))
"""


@dataclass(frozen=True)
class Pictures:
    """A folder of images, and what is asked of it."""

    name: str
    folder: Path
    side: int  # that they are brought to, in pixels
    reach: float
    aim: float
    note: str


def measure(settings: Settings) -> Iterator[Answer]:
    """Give the first pass over each kind of images, and the later ones."""
    small = make_images(settings.folder / "small", 32, (32, 32), "jpg")
    for pictures in folders(settings):
        count = sum(1 for path in pictures.folder.rglob("*.*") if path.is_file())
        ours, baseline = Passes(["-c", WISESR], pictures, small), Passes([str(BASELINE)], pictures, small)
        rates = alternate(
            lambda: count / ours.first(),  # noqa: B023
            lambda: count / baseline.first(),  # noqa: B023
            repetitions=settings.repetitions,
        )
        first = replace(FIRST, name=f"first pass, {pictures.name}", reach=pictures.reach, aim=pictures.aim)
        yield Answer(first, *rates, note=f"{count:,} files, {pictures.note}")
        later = replace(LATER, name=f"later passes, {pictures.name}")
        yield Answer(later, [count / s for s in ours.later], [count / s for s in baseline.later])


class Passes:
    """Runs a program that prints the seconds of its passes."""

    def __init__(self, program: list[str], pictures: Pictures, small: Path) -> None:
        self.command = [sys.executable, *program, str(pictures.folder), str(pictures.side), str(small)]
        self.later: list[float] = []

    def first(self) -> float:
        """Return the seconds of the first pass, and keep those of the later ones."""
        first, *later = json.loads(run_process(self.command).stdout.splitlines()[-1])
        self.later.append(statistics.median(later))
        return float(first)


def folders(settings: Settings) -> Iterator[Pictures]:
    """Make the images, a kind at a time: photos of a camera, of a web shop, and tiny ones as JPEG and as PNG."""
    few = settings.quick
    yield from camera_photos(settings, 12 if few else 48)
    photos = settings.images or make_images(settings.folder / "photos", 600, (534, 400), "jpg")
    yield Pictures("400x534 photos to 224 px", photos, 224, 0.8, 1.2, "JPEG" if settings.images else "made, JPEG")
    for suffix in ("jpg", "png"):
        tiny = make_images(settings.folder / suffix, 4_000 if few else 20_000, (32, 32), suffix)
        yield Pictures(f"32x32 images ({suffix.upper()})", tiny, 32, 2, 4, "not resized")


def camera_photos(settings: Settings, count: int) -> Iterator[Pictures]:
    """Make photos of 12 megapixels, smooth and with the noise of a sensor: what they cost grows with their bytes."""
    photos = settings.images or make_images(settings.folder / "originals", count, (534, 400), "jpg")
    originals = sorted(photos.rglob("*.jpg"))[:count]
    for kind, noise in (("smooth", 0), ("noisy", 6)):
        folder = settings.folder / kind
        for number in range(count):
            enlarge(originals[number % len(originals)], place(folder, number, "jpg"), noise=noise, seed=number)
        megabytes = sum(path.stat().st_size for path in folder.rglob("*.jpg")) / count / 1e6
        name = f"12-megapixel JPEGs of {megabytes:.1f} MB ({kind}) to 224 px"
        yield Pictures(name, folder, 224, 2.2, 3, "3000x4000, smaller photos enlarged")


def enlarge(photo: Path, path: Path, *, noise: float, seed: int) -> None:
    """Write a photo with 12 megapixels; `noise` is the standard deviation of what is added to a pixel, of 255."""
    picture = Image.open(photo).convert("RGB").resize((3000, 4000), Image.Resampling.BICUBIC)
    if noise:
        grain = np.random.default_rng(seed).standard_normal((4000, 3000, 1), dtype=np.float32) * noise
        picture = Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8))
    picture.save(path, quality=87)


def make_images(folder: Path, count: int, size: tuple[int, int], suffix: str) -> Path:
    """Write smooth random pictures of a size (height, width) in two class folders."""
    random = np.random.default_rng(0)
    height, width = size
    for number in range(count):
        colours = random.integers(0, 255, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
        picture = Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(place(folder, number, suffix), quality=90)
    return folder


def place(folder: Path, number: int, suffix: str) -> Path:
    """Return where an image goes in two class folders, which are there from then on."""
    path = folder / f"class{number % 2}" / f"{number:06}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    main(__doc__, measure)
