"""Draws small pictures of a harbour, the training data of `wisesr demo`.

Every picture holds the same things on a 3x3 board: one boat with red sails, three with white sails and two
red-and-white buoys. The class is where the red sails are, so only position tells. Nothing else in a picture may depend
on position: light and swell are drawn at random, and a boat looks the same near and far.

To draw another object, write a function that takes a `Brush`, and give it cells in `_place`. Pillow and NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from wisesr_cli.listening import Listener, Silent

Point: TypeAlias = tuple[float, float]
Color: TypeAlias = tuple[int, int, int] | tuple[int, int, int, int]

CLASS_NAMES = ("nw", "n", "ne", "w", "centre", "e", "sw", "s", "se")

_BOARD = 96.0  # side of the board in drawing units
_CELL_CENTRES = (24.0, 48.0, 72.0)
_JITTER = 3.0
_OVERSAMPLING = 2  # drawn this much larger, then shrunk for smooth edges
_RED_SAILS: tuple[Color, Color] = ((214, 38, 44), (166, 22, 38))  # lit, shaded
_WHITE_SAILS: tuple[Color, Color] = ((250, 248, 242), (208, 214, 222))
_RED_PAINT: Color = (206, 44, 48)
_WHITE_PAINT: Color = (246, 244, 238)
_HULLS: tuple[Color, ...] = ((74, 46, 32), (44, 52, 72), (96, 62, 38), (58, 58, 62))


@dataclass(frozen=True)
class Brush:
    """Draws one object around its own origin: mirrored, leaning and scaled, in board units with y downwards."""

    draw: ImageDraw.ImageDraw
    origin: Point
    unit: float  # canvas pixels per board unit
    mirror: int  # 1, or -1 to face the other way
    lean: float  # radians
    scale: float

    def points(self, outline: Sequence[Point]) -> list[Point]:
        """Return the points of an outline in canvas coordinates."""
        sine, cosine = math.sin(self.lean), math.cos(self.lean)
        turned = [(self.mirror * (x * cosine - y * sine), x * sine + y * cosine) for x, y in outline]
        return [
            ((self.origin[0] + x * self.scale) * self.unit, (self.origin[1] + y * self.scale) * self.unit)
            for x, y in turned
        ]

    def fill(self, outline: Sequence[Point], color: Color) -> None:
        """Fill a polygon."""
        self.draw.polygon(self.points(outline), fill=color)

    def line(self, outline: Sequence[Point], color: Color, *, width: float) -> None:
        """Draw a line of a width in board units."""
        self.draw.line(self.points(outline), fill=color, width=max(1, round(width * self.unit)), joint="curve")


def draw_harbour(position: int, rng: np.random.Generator, *, size: int = 96) -> Image.Image:
    """Return an RGB picture (size, size) with the red sails in cell `position` of the board, 0..8 row by row."""
    if position not in range(len(CLASS_NAMES)):
        raise ValueError(f"position must be 0..{len(CLASS_NAMES) - 1}. Received: position={position}")
    unit = _OVERSAMPLING * size / _BOARD
    canvas = _sea(rng, side=_OVERSAMPLING * size)
    draw = ImageDraw.Draw(canvas, "RGBA")
    _draw_wavelets(draw, rng, unit=unit)
    things = [(_brush(draw, cell, rng, unit=unit), thing) for cell, thing in _place(position, rng)]
    for brush, thing in sorted(things, key=lambda pair: pair[0].origin[1]):  # near objects over far ones
        thing(brush, rng)
    return canvas.reduce(_OVERSAMPLING)


def make_harbour(
    folder: Path,
    *,
    train_per_class: int = 80,
    test_per_class: int = 60,
    seed: int = 0,
    listener: Listener | None = None,
) -> None:
    """Write FOLDER/train/CLASS/*.png and FOLDER/test/CLASS/*.png, identical for equal seeds.

    Writes every file atomically, so an interrupted call can simply be repeated.
    """
    jobs = list(_jobs(folder, (("train", train_per_class), ("test", test_per_class))))
    with (listener or Silent()).progress("drawing harbours", len(jobs)) as progress:
        for path, position, key in jobs:
            _write(draw_harbour(position, np.random.default_rng([seed, *key])), path)
            progress.advance()


def _jobs(folder: Path, splits: Sequence[tuple[str, int]]) -> Iterator[tuple[Path, int, tuple[int, int, int]]]:
    """Return path, position and random key of every picture; adding pictures per class leaves the others unchanged."""
    for split_number, (split, per_class) in enumerate(splits):
        for position, name in enumerate(CLASS_NAMES):
            for number in range(per_class):
                yield folder / split / name / f"{number:03d}.png", position, (split_number, position, number)


def _write(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    picture.save(temporary, format="PNG")
    temporary.replace(path)


def _place(position: int, rng: np.random.Generator) -> list[tuple[int, Callable[[Brush, np.random.Generator], None]]]:
    """Return which object is in which cell; three cells stay empty."""
    others = rng.permutation([cell for cell in range(len(CLASS_NAMES)) if cell != position]).tolist()
    red, white = (partial(_draw_boat, sails=sails) for sails in (_RED_SAILS, _WHITE_SAILS))
    things: list[Callable[[Brush, np.random.Generator], None]] = [red, *[white] * 3, *[_draw_buoy] * 2]
    return list(zip([position, *others], things, strict=False))


def _brush(draw: ImageDraw.ImageDraw, cell: int, rng: np.random.Generator, *, unit: float) -> Brush:
    row, column = divmod(cell, 3)
    across, down = rng.uniform(-_JITTER, _JITTER, size=2)
    return Brush(
        draw=draw,
        origin=(_CELL_CENTRES[column] + across, _CELL_CENTRES[row] + down),
        unit=unit,
        mirror=int(rng.choice([-1, 1])),
        lean=rng.uniform(-0.10, 0.10),
        scale=rng.uniform(0.94, 1.08),
    )


def _sea(rng: np.random.Generator, *, side: int) -> Image.Image:
    """Return water in a random blue, with broad patches of light that favour no side of the picture."""
    green = rng.uniform(0, 1)
    base = np.array([22 + 16 * green, 92 + 42 * green, 150 + 6 * green]) + rng.uniform(-10, 14)
    patches = Image.fromarray(rng.uniform(-1, 1, size=(5, 5)).astype(np.float32))
    light = np.asarray(patches.resize((side, side), Image.Resampling.BICUBIC))  # (side, side)
    water = base + light[:, :, None] * np.array([8.0, 15.0, 16.0])
    return Image.fromarray(np.clip(water, 0, 255).astype(np.uint8))


def _draw_wavelets(draw: ImageDraw.ImageDraw, rng: np.random.Generator, *, unit: float) -> None:
    """Draw small crests, lit above and dark below, all over and a little beyond the picture."""
    for x, y, width, light in rng.uniform((-4, -4, 2.5, 0), (_BOARD + 4, _BOARD + 4, 6.5, 1), size=(46, 4)).tolist():
        crest = [((x + width * t) * unit, (y - 1.1 * math.sin(math.pi * t)) * unit) for t in np.linspace(0, 1, 6)]
        below = [(px, py + 0.8 * unit) for px, py in crest]
        draw.line(below, fill=(6, 44, 86, 60), width=round(0.6 * unit))
        draw.line(crest, fill=(232, 246, 250, round(50 + 80 * light)), width=round(0.5 * unit))


def _draw_boat(brush: Brush, rng: np.random.Generator, *, sails: tuple[Color, Color]) -> None:
    hull = _HULLS[int(rng.integers(len(_HULLS)))]
    lit, shaded = sails
    _draw_reflection(brush, width=6.4, color=(*lit[:3], 70))
    deck, keel = _curve((-8.2, 4.6), (0, 5.8), (8.8, 3.8)), _curve((6.0, 8.0), (0, 8.6), (-6.4, 8.0))
    brush.fill([*deck, *keel], hull)
    brush.line(deck, (238, 226, 200), width=0.6)
    brush.fill([(-0.9, 3.9), *_curve((-0.9, -10.2), (-7.4, -3.6), (-7.6, 3.7))], lit)  # mainsail
    brush.fill([(-0.9, 3.9), *_curve((-0.9, -4.0), (-2.6, 0.6), (-7.6, 3.7))], shaded)
    brush.fill([(0.7, -8.6), *_curve((0.7, 3.4), (3.6, 4.2), (7.8, 3.2))], lit)  # jib
    brush.fill([(0.7, 3.4), *_curve((7.8, 3.2), (3.4, 1.4), (0.7, -3.2))], shaded)
    brush.line([(-0.1, -10.8), (-0.1, 5.4)], (62, 44, 34), width=0.7)
    brush.line(_curve((-9.4, 8.3), (0, 9.2), (9.4, 8.0)), (240, 248, 250, 190), width=0.7)  # bow wave


def _draw_buoy(brush: Brush, rng: np.random.Generator) -> None:
    _draw_reflection(brush, width=2.6, color=(*_RED_PAINT[:3], 70))
    brush.fill(_ellipse((0, 4.6), 3.8, 1.9), (128, 24, 34))
    brush.fill(_ellipse((0, 3.9), 3.8, 1.8), _RED_PAINT)
    edges = ((-5.0, 1.0), (-2.6, 1.5), (-0.2, 2.0), (2.0, 2.5), (4.4, 3.0))  # height, half width
    bands = zip(edges[:-1], edges[1:], (_RED_PAINT, _WHITE_PAINT, _RED_PAINT, _WHITE_PAINT), strict=True)
    for (top, narrow), (bottom, wide), paint in bands:
        brush.fill([(-narrow, top), (narrow, top), (wide, bottom), (-wide, bottom)], paint)
    brush.fill([(0.4, -5.0), (1.0, -5.0), (3.0, 4.4), (1.2, 4.4)], (40, 10, 30, 50))  # its shaded side
    brush.fill(_ellipse((0, -6.2), 1.1, 1.1), (255, 214, 92) if rng.uniform() < 0.5 else (70, 62, 60))  # lamp
    brush.line(_curve((-4.8, 5.6), (0, 7.4), (4.8, 5.6)), (240, 248, 250, 180), width=0.6)


def _draw_reflection(brush: Brush, *, width: float, color: Color) -> None:
    """Draw a few broken streaks on the water below an object, narrower further down."""
    for row, share in enumerate((1.0, 0.75, 0.45)):
        y = 8.6 + 1.5 * row
        brush.line([(-width * share, y), (width * share, y)], color, width=0.8)


def _curve(start: Point, control: Point, end: Point, *, steps: int = 8) -> list[Point]:
    """Return points on the quadratic Bezier curve from `start` to `end`."""
    shares = [step / steps for step in range(steps + 1)]
    weights = [((1 - t) ** 2, 2 * t * (1 - t), t**2) for t in shares]
    return [
        (a * start[0] + b * control[0] + c * end[0], a * start[1] + b * control[1] + c * end[1]) for a, b, c in weights
    ]


def _ellipse(centre: Point, across: float, down: float, *, steps: int = 20) -> list[Point]:
    angles = [2 * math.pi * step / steps for step in range(steps)]
    return [(centre[0] + across * math.cos(angle), centre[1] + down * math.sin(angle)) for angle in angles]
