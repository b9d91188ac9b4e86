"""Makes the pictures that heads on frozen features are compared on: sets where only position tells, and others.

    python -m benchmarks.heads.pictures FOLDER --photos PHOTOS --stamps STAMPS

PHOTOS has train/, validation/ and test/ with class folders; STAMPS has the pictures of Debian's package
tuxpaint-stamps-default. Every set is made once, as class folders in splits, so that `wisesr compare` can also use it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from wisesr_cli.demo import harbour
from wisesr_cli.display.grid import Grid, texts, to_markdown

SPLITS = ("train", "validation", "test")
SHARES = (0.6, 0.2)  # of sets without splits: training and validation
QUARTERS = ("top-left", "top-right", "bottom-left", "bottom-right")
MOSAICS = {"train": 600, "validation": 200, "test": 400}
TARGET = "shoes"  # whose quarter is the class; for photos without them, the first class
TILE = 200  # the side of a quarter, in pixels
FEWEST_STAMPS = 30  # in a class
QUALITY = 95  # of JPEG

Picture = tuple[str, str, str, Image.Image]  # split, class, name without suffix, the picture


def mirrored(photos: Path) -> Iterator[Picture]:
    """Yield every photo once, unchanged or mirrored with equal probability."""
    random = np.random.default_rng(0)
    for split in SPLITS:
        for path in sorted((photos / split).glob("*/*")):
            with Image.open(path) as photo:
                image = photo.convert("RGB")
            turned = bool(random.integers(2))
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if turned else image
            yield split, "mirrored" if turned else "as-taken", f"{path.parent.name}-{path.stem}", image


def quarters(photos: Path) -> Iterator[Picture]:
    """Yield mosaics of four photos, one of which shows the target; the class is the quarter that it is in."""
    random = np.random.default_rng(0)
    names = sorted(path.name for path in (photos / "train").iterdir())
    target = TARGET if TARGET in names else names[0]
    for split, count in MOSAICS.items():
        paths = sorted((photos / split).glob("*/*"))
        targets = [path for path in paths if path.parent.name == target]
        others = [path for path in paths if path.parent.name != target]
        for number in range(count):
            place = number % len(QUARTERS)
            chosen = [
                others[index]
                for index in random.choice(len(others), len(QUARTERS), replace=len(others) < len(QUARTERS))
            ]
            chosen[place] = targets[random.integers(len(targets))]
            mosaic = Image.new("RGB", (2 * TILE, 2 * TILE))
            for quarter, path in enumerate(chosen):
                with Image.open(path) as photo:
                    tile = photo.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS)
                mosaic.paste(tile, (quarter % 2 * TILE, quarter // 2 * TILE))
            yield split, QUARTERS[place], f"{number:04d}", mosaic


def stamps(folder: Path) -> Iterator[Picture]:
    """Yield photos and drawings of things on white; the class is the kind of thing, which is their folder."""
    random = np.random.default_rng(0)
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        paths = sorted(kind.rglob("*.png"))
        if len(paths) < FEWEST_STAMPS:
            continue
        for place, index in enumerate(random.permutation(len(paths))):
            with Image.open(paths[index]) as stamp:
                image = stamp.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            split = _split_at(place / len(paths))
            yield split, kind.name, f"{index:04d}", Image.alpha_composite(white, image).convert("RGB")


def digits() -> Iterator[Picture]:
    """Yield scikit-learn's 1,797 handwritten digits, 8x8 pixels enlarged to 64x64."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    for place, index in enumerate(order):
        image = Image.fromarray((255 - found.images[index] * (255 / 16)).astype(np.uint8))
        enlarged = image.resize((64, 64), Image.Resampling.BICUBIC).convert("RGB")
        yield _split_at(place / len(order)), str(found.target[index]), f"{index:04d}", enlarged


def _split_at(share: float) -> str:
    """Return the split of a picture at this fraction of its kind's pictures."""
    return SPLITS[int(share >= SHARES[0]) + int(share >= sum(SHARES))]


def made(folder: Path, name: str, pictures: Callable[[], Iterator[Picture]]) -> Path:
    """Return the folder of a set, writing it only once: a resumed comparison needs the same files."""
    done, unfinished = folder / name, folder / f"{name}.part"
    if not done.is_dir():
        for split, label, stem, image in pictures():
            place = unfinished / split / label
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{stem}.jpg", quality=QUALITY)
        unfinished.rename(done)
    return done


def made_harbour(folder: Path, train_per_class: int, test_per_class: int) -> Path:
    """Return the folder of the demo's harbour, drawn once."""
    done, unfinished = folder / "harbour", folder / "harbour.part"
    if not done.is_dir():
        harbour.make_harbour(unfinished, train_per_class=train_per_class, test_per_class=test_per_class)
        unfinished.rename(done)
    return done


def make_all(folder: Path, *, photos: Path | None, stamp_folder: Path | None) -> dict[str, Path]:
    """Return the folder of every set that can be made, by name, and report what is missing for the others."""
    sets: dict[str, Path] = {}
    if photos is not None and photos.is_dir():
        sets["photos"] = photos
        sets["mirrored"] = made(folder, "mirrored", lambda: mirrored(photos))
        sets["quarters"] = made(folder, "quarters", lambda: quarters(photos))
    else:
        print("skipped: photos, mirrored, quarters: give --photos FOLDER", file=sys.stderr)
    if stamp_folder is not None and stamp_folder.is_dir():
        sets["stamps"] = made(folder, "stamps", lambda: stamps(stamp_folder))
    else:
        print("skipped: stamps: give --stamps FOLDER, the pictures of tuxpaint-stamps-default", file=sys.stderr)
    try:
        sets["digits"] = made(folder, "digits", digits)
    except ModuleNotFoundError:
        print("skipped: digits: pip install scikit-learn", file=sys.stderr)
    return {**sets, "harbour": made_harbour(folder, 80, 60)}


def main() -> None:
    """Make the sets and print their folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--stamps", type=Path)
    arguments = parser.parse_args()
    sets = make_all(arguments.folder, photos=arguments.photos, stamp_folder=arguments.stamps)
    print(to_markdown(Grid("", texts("pictures", "folder"), tuple((name, str(path)) for name, path in sets.items()))))


if __name__ == "__main__":
    main()
