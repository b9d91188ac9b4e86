"""What an engine is: something that turns uint8 batches into logits."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.model_files.info import ModelInfo


class Engine(Protocol):
    """A loaded model.

    `full_batches`: whether it is fast only where every batch has as many images as the one before, so that one with
    fewer is filled up.
    """

    info: ModelInfo
    full_batches: bool

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (batch, classes) for uint8 pixels (batch, height, width, 3)."""


def padded_logits(engine: Engine, pixels: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Return the logits of at most `batch_size` images, computed as a full batch where the engine wants one."""
    missing = batch_size - len(pixels)
    if missing <= 0 or not engine.full_batches:
        return engine.logits(pixels)
    filled = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
    return engine.logits(filled)[: len(pixels)]
