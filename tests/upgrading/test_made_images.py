from __future__ import annotations

import numpy as np

from wisesr_cli.upgrading.made_images import made_image


def test_made_images_are_reproducible_and_vary_like_photos() -> None:
    images = np.stack([made_image(number, (64, 48)) for number in range(16)]).astype("float64")
    assert np.array_equal(images[3], made_image(3, (64, 48)))
    assert images.mean(axis=(1, 2, 3)).std() > 20  # brightness
    neighbours = np.corrcoef(images[:, :, 1:].ravel(), images[:, :, :-1].ravel())[0, 1]
    colours = np.corrcoef(images[..., 0].ravel(), images[..., 1].ravel())[0, 1]
    assert neighbours > 0.7
    assert colours > 0.5
