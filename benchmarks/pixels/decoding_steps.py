"""What a 12-megapixel JPEG costs, step by step: how much of it decoding at a smaller scale can save.

    python -m benchmarks.pixels.decoding_steps [--quick]

Milliseconds per photo in one thread, medians of several rounds, and their share of what wisesr takes from the file to
224 x 224 pixels. The photos are those of benchmarks/speed/images.py. Decoding in grey at an eighth of the size leaves
little but entropy decoding, which every reader of the file must do.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import simplejpeg

from benchmarks.measuring import Settings, arguments_for, figure, settings_for
from benchmarks.speed.images import camera_photos
from wisesr_cli.display.grid import Column, Grid, to_markdown
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.images.opening import read_whole

SIZE = (224, 224)
WIDTH, HEIGHT = 3000, 4000
ROUNDS, PHOTOS = 7, 6


def milliseconds(step: Callable[[Path], object], paths: list[Path], rounds: int) -> float:
    """Return the median time of a step per photo."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        for path in paths:
            step(path)
        times.append(1000 * (time.perf_counter() - started) / len(paths))
    return statistics.median(times)


def decoded(path: Path, contents: dict[Path, bytes], scale: int, colours: str) -> object:
    """Decode a photo at a fraction of its size."""
    width, height = -(-WIDTH // scale), -(-HEIGHT // scale)
    return simplejpeg.decode_jpeg(contents[path], colours, min_width=width, min_height=height)


def table(name: str, paths: list[Path], rounds: int) -> Grid:
    """Return the steps of one kind of photos."""
    contents = {path: path.read_bytes() for path in paths}
    steps: dict[str, Callable[[Path], object]] = {"file to 224 x 224 pixels": partial(decode_image, image_size=SIZE)}
    for scale in (1, 2, 4, 8):
        steps[f"decoding at 1/{scale} of the size"] = partial(decoded, contents=contents, scale=scale, colours="RGB")
    steps["decoding at 1/8, grey"] = partial(decoded, contents=contents, scale=8, colours="GRAY")
    steps["reading the file"] = lambda path: read_whole(str(path))
    steps["hash of the content"] = lambda path: hashlib.sha256(contents[path]).digest()
    found = {step: milliseconds(function, paths, rounds) for step, function in steps.items()}
    whole = next(iter(found.values()))
    rows = tuple((step, figure(value), f"{value / whole:.0%}") for step, value in found.items())
    return Grid(name, (Column("step"), Column("ms", True), Column("share", True)), rows)


def main() -> None:
    """Print a table for each kind of photos."""
    arguments = arguments_for(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings: Settings = settings_for(arguments, Path(folder))
        for pictures in camera_photos(settings, 2 if settings.quick else PHOTOS):
            paths = sorted(pictures.folder.rglob("*.jpg"))
            print(to_markdown(table(pictures.name, paths, 2 if settings.quick else ROUNDS)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
