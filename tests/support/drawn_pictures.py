"""Pictures with edges, drawn from a number."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw


def draw_picture(number: int, *, size: tuple[int, int] = (200, 150)) -> Image.Image:
    """Return random shapes on a background with a gradient; `number` is the seed."""
    draws = np.random.default_rng(number)
    width, height = size
    ramp = np.linspace(0, draws.uniform(-60, 60), width)[None, :, None] + draws.uniform(90, 160, 3)
    picture = Image.fromarray(np.broadcast_to(ramp.clip(0, 255), (height, width, 3)).astype(np.uint8))
    canvas = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y = draws.integers(0, width), draws.integers(0, height)
        across, down = draws.integers(8, 60, 2)
        shape = canvas.ellipse if draws.random() < 0.5 else canvas.rectangle
        shape((x, y, x + across, y + down), fill=tuple(draws.integers(0, 256, 3).tolist()))
    return picture
