"""Measures the value range of images of more than 8 bits, on training images: one for a data set, or one per band.

Scanners and microscopes store 10 or 12 bits in 16, floats of any range, or Hounsfield units. Scaled to 8 bits over
their full depth, such images keep only a few grey levels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from wisesr_cli.data.index import DEEP, DatasetIndex
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.errors import ImageError
from wisesr_cli.images.decoding import read_values
from wisesr_cli.images.depth import ends_of
from wisesr_cli.images.preparation import RGB, Preparation, Ranges, ValueRange, range_text
from wisesr_cli.listening import Listener
from wisesr_cli.machine.threads import for_each
from wisesr_cli.text import counted

MOST_IMAGES = 1_000  # measured, spread over the training images
PIXELS_OF_EACH = 16_384
TAILS = 1e-3  # of all pixels, at either end: dead pixels, burnt-in labels
OVERSHOOT = 0.02  # of floats after filtering: 0..1 may be -0.02..1.02
FEWEST_LEVELS = 32  # of 256: a range that leaves fewer is too wide
CLIPPED = 0.01  # of an image's pixels
Result = TypeVar("Result")


@dataclass(frozen=True)
class Measured:
    """The range of a data set, None for the full depth, and a message about it."""

    value_range: Ranges | None
    message: str


def with_value_range(data: DataConfig, index: DatasetIndex, listener: Listener) -> DataConfig:
    """Return the config with `value_range: auto` resolved on the training images; reports a range that is not full."""
    if data.value_range != "auto":
        return data
    paths = deep_images(index, "train")
    measured = Measured(None, "")
    if paths:
        measured = measure(paths, data.pixel_limit, listener, channels=data.channels)
    if measured.message:
        listener.note(measured.message)
    return data.model_copy(update={"value_range": measured.value_range or "full"})


def deep_images(index: DatasetIndex, split: str) -> list[str]:
    """Return the absolute paths of the images of more than 8 bits in a split."""
    facts = index.splits[split].facts
    if facts is None:
        return []
    paths = index.absolute(split)
    return [paths[position] for position in np.flatnonzero(facts["flags"] & DEEP)]


def measure(paths: Sequence[str], pixel_limit: int, listener: Listener, *, channels: int = RGB) -> Measured:
    """Return the range of images of more than 8 bits, one per band if there are bands; skips unreadable images."""
    chosen = [paths[round(position)] for position in np.linspace(0, len(paths) - 1, min(len(paths), MOST_IMAGES))]
    preparation = Preparation(channels=channels)
    samples = [sample for sample in _of_each(_sample, chosen, pixel_limit, preparation, listener) if sample is not None]
    are_integers = all(each.dtype.kind != "f" for each in samples)
    value_range: Ranges | None
    if preparation.has_bands and samples:
        value_range, reason = _ranges_of(np.concatenate(samples), are_integers), "measured"
    else:
        together = np.concatenate(samples) if samples else np.zeros(0)
        value_range, reason = _range_of(together[np.isfinite(together)], are_integers)
    count = f"{counted(len(paths), 'training image')} of more than 8 bits"
    if value_range is None:
        return Measured(None, f"{count}: the full depth is used" if samples else "")
    return Measured(
        value_range,
        f"{count}: values of {range_text(value_range)} become 0 to 255 ({reason}); data.value_range sets another range",
    )


def _ranges_of(values: npt.NDArray[np.generic], are_integers: bool) -> tuple[ValueRange, ...] | None:
    """Return the range of each band from the values (pixels, bands) of all images; None if all have the full depth."""
    known = [band[np.isfinite(band)] for band in values.T]
    found = [_range_of(band, are_integers)[0] for band in known]
    if are_integers and not any(found) and all(len(band) and band.min() < band.max() for band in known):
        return None
    return tuple(each or _full_range(band) for each, band in zip(found, known, strict=True))


def _full_range(band: npt.NDArray[np.generic]) -> ValueRange:
    """Return the range of 16 bits, or, for a band with a single value, one that makes it black."""
    low = float(band.min()) if len(band) else 0.0
    return (0.0, 65535.0) if len(band) and band.min() < band.max() else (low, low + 1.0)


def _range_of(values: npt.NDArray[np.generic], are_integers: bool) -> tuple[ValueRange | None, str]:
    """Return the range from the values of all images, and the reason; None for the full depth of 16 bits."""
    if not len(values):
        return None, ""
    low, high = (float(value) for value in np.quantile(values.astype(np.float64), (TAILS, 1 - TAILS)))
    if low >= high:
        return None, ""
    depths = [(2.0**bits - 1, f"{bits} bits used") for bits in range(8, 33)]
    natural = depths if are_integers else [(1.0, "0 to 1"), (255.0, "0 to 255")]
    margin = 0.0 if are_integers else OVERSHOOT
    end, reason = next(((end, reason) for end, reason in natural if high <= end * (1 + margin)), (0.0, ""))
    if low >= -margin * end and end and (high - low) * 256 >= end * FEWEST_LEVELS:
        return (None if end == 65535 else (0.0, end)), reason
    return (low, high), f"{100 * TAILS:g} % of the pixels are below, and as many above"


@dataclass(frozen=True)
class DepthLost:
    """The images that keep few of their grey levels, and those that the range clips."""

    few_levels: tuple[str, ...]
    clipped: tuple[str, ...]


def find_lost_depth(
    paths: Sequence[str], value_range: Ranges | None, pixel_limit: int, listener: Listener, *, channels: int = RGB
) -> DepthLost:
    """Return the images of more than 8 bits that a range degrades; skips unreadable images."""

    def judge(path: str, limit: int, preparation: Preparation) -> tuple[bool, bool]:
        values = read_values(path, pixel_limit=limit, preparation=preparation)
        if values is None:
            return False, False
        levels = values.levels(value_range)
        few = len(np.unique(levels)) < FEWEST_LEVELS <= len(np.unique(_some(values.stored.reshape(-1)))) // 2
        low, high = ends_of(value_range or (-np.inf, np.inf))
        with np.errstate(invalid="ignore"):
            outside = float(np.mean((values.stored < low) | (values.stored > high)))
        return few, outside > CLIPPED

    found = _of_each(judge, paths, pixel_limit, Preparation(channels=channels), listener)
    few, clipped = (
        tuple(path for path, each in zip(paths, found, strict=True) if each is not None and each[kind])
        for kind in (0, 1)
    )
    return DepthLost(few, clipped)


def _of_each(
    use: Callable[[str, int, Preparation], Result],
    paths: Sequence[str],
    pixel_limit: int,
    preparation: Preparation,
    listener: Listener,
) -> list[Result | None]:
    """Apply `use` to every file in threads; None for a file that cannot be read."""
    results: list[Result | None] = [None] * len(paths)

    def try_one(position: int) -> None:
        try:
            results[position] = use(paths[position], pixel_limit, preparation)
        except ImageError:
            results[position] = None

    with listener.progress("measuring values", len(paths)) as progress:
        for_each(try_one, range(len(paths)), finished=progress.advance)
    return results


def _sample(path: str, pixel_limit: int, preparation: Preparation) -> npt.NDArray[np.generic] | None:
    values = read_values(path, pixel_limit=pixel_limit, preparation=preparation)
    if values is None:
        return None
    return _some(
        values.stored.reshape(-1, preparation.channels) if preparation.has_bands else values.stored.reshape(-1)
    )


def _some(values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return a deterministic sample of the rows of values, (values,) or (pixels, bands), spread over an image."""
    if len(values) <= PIXELS_OF_EACH:
        return values.copy()
    return values[np.random.default_rng(0).integers(0, len(values), PIXELS_OF_EACH)]
