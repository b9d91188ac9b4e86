"""Trains on all devices of all processes with JAX; the rows of each batch are distributed over the devices.

With Keras' `DataParallel`, the compiler adds the communication: loss, gradients and batch-norm statistics are those of
the whole batch, as on one device. A batch that cannot be divided evenly, usually the last of an epoch, is padded with
rows that the compiled step removes: arrays inside a compiled step may be sharded unevenly, its inputs may not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from wisesr_cli.data.pixels import Positions
from wisesr_cli.training.devices.distribution import Distribution

if TYPE_CHECKING:
    from wisesr_cli.training.batches import Batches


class ShardedModel(keras.Model):
    """A model with inputs ((pixels, padding), targets[, weights]) that ignores the padding rows.

    padding: (devices, rows of padding + 1); only its shape is used, as a compiled step needs a static size.
    """

    strategy: Any = None

    def train_step(self, state: Any, data: Any) -> Any:
        """Train on the examples of a batch."""
        return super().train_step(state, self._examples(data))

    def test_step(self, state: Any, data: Any) -> Any:
        """Evaluate the examples of a batch."""
        return super().test_step(state, self._examples(data))

    def _examples(self, data: Any) -> Any:
        (pixels, padding), *others = data
        rows = pixels.shape[0] - (padding.shape[1] - 1)
        if rows == pixels.shape[0]:
            return (pixels, *others)
        return tuple(self._cut(array, rows) for array in (pixels, *others))

    def _cut(self, array: Any, rows: int) -> Any:
        """Return the first rows of an array, on their current devices."""
        return keras.distribution.distribute_tensor(array[:rows], self.strategy.get_data_layout(array.shape))


class ShardedBatches(keras.utils.PyDataset):
    """The rows of every batch that this process reads, the same number for each of its devices."""

    def __init__(self, batches: Batches, distribution: Distribution) -> None:
        super().__init__(workers=batches.workers, max_queue_size=batches.max_queue_size)
        self.batches, self.distribution = batches, distribution

    @property
    def num_batches(self) -> int:
        """Batches per epoch."""
        return self.batches.num_batches

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """Return ((pixels, padding), targets[, weights]) of this process's rows."""
        distribution, size = self.distribution, self.batches.batch_size
        share = share_of_batch(
            self.batches.order[index * size : (index + 1) * size],
            process=distribution.process,
            processes=distribution.processes,
            devices=distribution.devices,
        )
        pixels, *others = (filled_up(rows, share.added) for rows in self.batches.rows(share.examples))
        padding: NDArray[np.uint8] = np.zeros((distribution.local_devices, share.padding + 1), np.uint8)
        return ((pixels, padding), *others)


class Sharded:
    """The devices of all processes; the distribution's strategy is a `keras.distribution.DataParallel`."""

    def __init__(self, distribution: Distribution) -> None:
        self.distribution = distribution

    def build_model(self, pixels: Any, logits: Any) -> Any:
        """Return the model to train, from symbolic pixels to symbolic logits."""
        model = ShardedModel(pixels, logits, name="training")
        model.strategy = self.distribution.strategy
        return model

    def data(self, batches: Batches, validation: Batches | None) -> dict[str, Any]:
        """Return the data arguments of `fit` for training on `batches`."""
        evaluated = None if validation is None else ShardedBatches(validation, self.distribution)
        return {"x": ShardedBatches(batches, self.distribution), "validation_data": evaluated}

    def train_one_step(self, model: Any, batches: Batches) -> float:
        """Train on the first batch and return its loss."""
        inputs, targets, *weights = ShardedBatches(batches, self.distribution)[0]
        found = model.train_on_batch(inputs, targets, sample_weight=weights[0] if weights else None, return_dict=True)
        return float(found["loss"])


def sharded_over(distribution: Distribution) -> Sharded | None:
    """Return the devices for JAX; None on one device, and with TensorFlow."""
    if not distribution.is_shared or keras.backend.backend() != "jax":
        return None
    return Sharded(distribution)


@dataclass(frozen=True)
class Share:
    """The rows of one batch that a process reads: examples, then `added` rows of padding.

    `padding` is the number of padding rows in the whole batch, over all processes.
    """

    examples: Positions
    added: int
    padding: int


def share_of_batch(batch: Positions, *, process: int, processes: int, devices: int) -> Share:
    """Return the rows of a batch that `process` of `processes` reads, the same number for each of all `devices`."""
    padding = -len(batch) % devices
    rows = (len(batch) + padding) // processes
    mine = batch[process * rows : (process + 1) * rows]
    return Share(mine, rows - len(mine), padding)


def filled_up(rows: NDArray[np.generic], added: int) -> NDArray[np.generic]:
    """Return `rows` padded with `added` rows of zeros."""
    return np.concatenate([rows, np.zeros((added, *rows.shape[1:]), rows.dtype)]) if added else rows
