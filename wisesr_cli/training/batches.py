"""Batches of training examples, and example and class weights."""

from __future__ import annotations

import math
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from wisesr_cli.config.schema import Config
from wisesr_cli.data.index import Labels, Split, class_counts
from wisesr_cli.data.pixels import epoch_order
from wisesr_cli.errors import WisesrError
from wisesr_cli.machine.threads import has_shared_locks

MOST_WEIGHT = 100.0  # for a rare label; above this, single images dominate


class Images(Protocol):
    """Images by index: their pixels, or their feature maps."""

    def batch(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """Return the images at `indices`, (batch, height, width, channels)."""


class Batches(keras.utils.PyDataset):
    """Batches of one split: uint8 pixels, targets (one-hot or multi-label), and example weights if any.

    Feature maps replace the pixels if only a head is trained.

    Shapes: `labels` int64 (examples,) or bool (examples, classes), `weights` float32 (examples,). The last batch of an
    epoch may be smaller. `seed` determines the order of every epoch (None: the given order); `smoothing` is the
    fraction of the target spread over all classes, or, with several labels, over yes and no.
    """

    def __init__(
        self,
        pixels: Images,
        labels: Labels,
        *,
        classes: int,
        batch_size: int,
        seed: int | None = None,
        smoothing: float = 0.0,
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        # Two threads prefetch; Keras' own prefetching would block at the end of an epoch. The thread pool needs locks
        # shared between processes.
        super().__init__(workers=2 if has_shared_locks() else 1, max_queue_size=8)
        self.pixels: Images = pixels
        self.labels = labels
        self.batch_size, self.seed = batch_size, seed
        self.weights = weights
        self.classes, self.smoothing = classes, smoothing
        self.order: NDArray[np.int64] = np.arange(len(labels))
        self.error: WisesrError | None = None

    @property
    def num_batches(self) -> int:
        """Batches per epoch."""
        return math.ceil(len(self.labels) / self.batch_size)

    def begin_epoch(self, epoch: int) -> None:
        """Set the order of an epoch, which depends on seed and epoch only."""
        self.order = self.order_of(epoch)

    def order_of(self, epoch: int) -> NDArray[np.int64]:
        """Return the order of the examples in an epoch, int64 (examples,)."""
        if self.seed is None:
            return np.arange(len(self.labels))
        return epoch_order(len(self.labels), seed=self.seed, epoch=epoch)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], ...]:
        """Return pixels (batch, height, width, channels), targets (batch, classes) and, if any, weights (batch,)."""
        return self.rows(self.order[index * self.batch_size : (index + 1) * self.batch_size])

    def rows(self, chosen: NDArray[np.int64]) -> tuple[NDArray[Any], ...]:
        """Return the examples at `chosen`, as `__getitem__` does."""
        labels = self.labels[chosen]
        try:
            batch = self.pixels.batch(chosen), self.targets(labels)
        except WisesrError as error:
            self.error = error  # TensorFlow passes on only its text
            raise
        return batch if self.weights is None else (*batch, self.weights[chosen])

    def targets(self, labels: Labels) -> NDArray[np.float32]:
        """Return the training targets for these labels: (batch, classes)."""
        if labels.ndim == 2:
            return labels.astype(np.float32) * np.float32(1.0 - self.smoothing) + np.float32(self.smoothing / 2)
        targets = np.full((len(labels), self.classes), self.smoothing / self.classes, np.float32)
        targets[np.arange(len(labels)), labels] += np.float32(1.0 - self.smoothing)
        return targets


def balanced_weights(labels: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    """Return class weights that give all classes equal influence; their mean over the examples is 1."""
    counts = np.bincount(labels, minlength=classes)
    return (len(labels) / (classes * np.maximum(counts, 1))).astype("float32")


def positive_weights(config: Config, class_names: tuple[str, ...], split: Split) -> NDArray[np.float32] | None:
    """Return the weight of each label in the loss of the examples that have it, float32 (classes,).

    None without class weights, or if every example has one label. `balanced`: examples without the label per example
    with it, within 1/100 to 100.
    """
    weights = config.train.class_weights
    if not split.is_multilabel or weights == "none":
        return None
    if isinstance(weights, dict):
        return np.asarray([weights.get(name, 1.0) for name in class_names], np.float32)
    counts = class_counts(split.labels, len(class_names))
    return np.clip((len(split) - counts) / np.maximum(counts, 1), 1 / MOST_WEIGHT, MOST_WEIGHT).astype(np.float32)


def example_weights(config: Config, class_names: tuple[str, ...], split: Split) -> NDArray[np.float32] | None:
    """Return each example's own weight times its class weight, float32 (examples,); None without either."""
    weights = config.train.class_weights
    if weights == "none" or split.is_multilabel:  # for several labels, see `positive_weights`
        return split.weights
    if isinstance(weights, str):
        of_classes = balanced_weights(split.labels, len(class_names))
    else:
        of_classes = np.asarray([weights.get(name, 1.0) for name in class_names], dtype="float32")
    of_examples: NDArray[np.float32] = of_classes[split.labels]
    return of_examples if split.weights is None else of_examples * split.weights
