"""Makes images for comparing two models without photos, with the statistics of photos and nothing else.

As in photos, neighbouring pixels are similar (amplitudes fall with 1 / frequency), channels are correlated, and
brightness, contrast and tint vary between images. The images are always the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.images.preparation import RGB

COMMON = 0.8  # fraction of the variation shared by the channels


class MadeImages:
    """`count` synthetic images (height, width in pixels), read by index like decoded images."""

    def __init__(self, count: int, image_size: tuple[int, int], channels: int = RGB) -> None:
        self.count, self.image_size, self.channels = count, image_size, channels

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Return the images at `indices`, uint8 (batch, height, width, channels)."""
        return np.stack([made_image(int(index), self.image_size, self.channels) for index in indices])


def made_image(number: int, image_size: tuple[int, int], channels: int = RGB) -> NDArray[np.uint8]:
    """Return one image, uint8 (height, width, channels); each number has its own image, at any size."""
    draws = np.random.default_rng([20210414, number])
    height, width = image_size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None, :] * width)
    noise = np.fft.rfft2(draws.standard_normal((1 + channels, height, width)), axes=(1, 2)) / np.maximum(frequency, 1.0)
    noise[:, 0, 0] = 0.0
    shared, *own = np.fft.irfft2(noise, s=image_size, axes=(1, 2))
    pattern = np.stack([COMMON * shared + (1.0 - COMMON) * colour for colour in own], axis=-1)
    pattern /= max(float(pattern.std()), 1e-12)
    brightness, contrast = draws.uniform(60, 190), draws.uniform(20, 75)
    tint = draws.normal(0.0, 20.0, channels)
    return np.clip(brightness + tint + contrast * pattern, 0, 255).astype(np.uint8)
