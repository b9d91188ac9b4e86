"""Makes image folders for tests, and records what a listener is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from wisesr_cli.data.settings import DataConfig
from wisesr_cli.listening import Progress, Silent
from wisesr_cli.settings import ImageSize


class Data(DataConfig):
    """The `data:` section of a config, for small images."""

    image_size: ImageSize = (16, 16)


@dataclass
class Heard(Silent):
    """Records notes and warnings, the progress bars with their totals, and the steps of each."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    bars: list[tuple[str, int | None]] = field(default_factory=list)
    steps: dict[str, int] = field(default_factory=dict)

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Progress]:
        self.bars.append((label, total))
        yield Counter(self.steps, label)


@dataclass
class Counter:
    steps: dict[str, int]
    label: str

    def advance(self, steps: int = 1) -> None:
        self.steps[self.label] = self.steps.get(self.label, 0) + steps

    def describe(self, label: str) -> None: ...


def make_image(path: Path, seed: int = 0, size: tuple[int, int] = (24, 20)) -> Path:
    """Write an image of noise from a seed; `size` is (height, width)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def make_folder(root: Path, counts: dict[str, int], *, first_seed: int = 0) -> Path:
    """Write `counts[folder]` different images into each folder below `root`."""
    seed = first_seed
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed += 1
            make_image(root / folder / f"{number:03}.png", seed)
    return root
