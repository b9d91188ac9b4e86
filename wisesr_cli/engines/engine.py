"""The interface of engines, which compute logits and feature vectors from uint8 batches."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.model_files.info import ModelInfo


class Engine(Protocol):
    """A loaded model.

    `full_batches`: it is fast only for batches of constant size, so smaller ones are padded.
    """

    info: ModelInfo
    full_batches: bool

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (batch, classes) for uint8 pixels (batch, height, width, channels)."""

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the input of the classifier layer, float32 (batch, features), for the same pixels."""


def padded_logits(engine: Engine, pixels: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Return the logits of at most `batch_size` images, padded to a full batch if the engine needs one."""
    missing = batch_size - len(pixels)
    if missing <= 0 or not engine.full_batches:
        return engine.logits(pixels)
    filled = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
    return engine.logits(filled)[: len(pixels)]
