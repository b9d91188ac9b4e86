"""Trains on several devices of one machine with TensorFlow: each holds the whole model and gets a share of each batch.

This adds what `MirroredStrategy` and Keras lack: shares of unequal size with equal weight for every image, batch norm
over the whole batch, different random draws per device, and prefetching that never mixes epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from wisesr_cli.errors import MachineError
from wisesr_cli.machine.keras_start import loaded_tensorflow
from wisesr_cli.text import counted
from wisesr_cli.training.devices.distribution import Distribution
from wisesr_cli.training.freezing import batch_norms

if TYPE_CHECKING:
    from wisesr_cli.training.batches import Batches

PREFETCHED_BATCHES = 2  # prefetched on the host during a step

Positions = NDArray[np.int64]
Arrays = tuple[NDArray[Any], ...]


class MirroredModel(keras.Model):
    """A model whose gradient is that of the mean over the whole batch, however its images are distributed."""

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *rest: Any, **options: Any) -> Any:
        """Return the loss of this device's share, its gradient scaled by share size over mean share size.

        Keras sums gradients as if all shares were equal. The value of the loss is unchanged.
        """
        loss = super().compute_loss(x, y, y_pred, *rest, **options)
        replica = loaded_tensorflow().distribute.get_replica_context()
        if replica is None:  # outside a step
            return loss
        size = ops.cast(ops.shape(y)[0], loss.dtype)
        share = size * replica.num_replicas_in_sync / replica.all_reduce("SUM", size)
        return loss * share + ops.stop_gradient(loss * (1 - share))

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build nothing: the trainer already did, and Keras would average a first batch of unequal shares.

        A private method of Keras, which `fit` always calls; there is no public way to skip it.
        """


class Mirror:
    """The devices of a `MirroredStrategy`, in whose scope the model is built; the first device's model is saved."""

    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy
        self.devices = int(strategy.num_replicas_in_sync)

    def build_model(self, pixels: Any, logits: Any) -> Any:
        """Return the model to train, from symbolic pixels to symbolic logits; its batch norm sees whole batches."""
        model = MirroredModel(pixels, logits, name="training")
        for layer in batch_norms(model):
            layer.synchronized = True
        return model

    def diversify_seed(self, variable: Any) -> None:
        """Give every device but the first a different state of a seed generator.

        With equal states, all devices would draw the same augmentation and dropout.
        """
        copies = self.strategy.experimental_local_results(variable.value)
        state = np.asarray(copies[0])
        for number, copy in enumerate(copies[1:], start=1):
            seed = np.random.SeedSequence([*state.tolist(), number])
            copy.assign((seed.generate_state(len(state)) & np.uint32(0x7FFFFFFF)).astype(state.dtype))

    def data(self, batches: Batches, validation: Batches | None, epochs: range) -> dict[str, Any]:
        """Return the data arguments of `fit` for training on `batches`, share by share."""
        found = {
            "x": self._dataset(batches, lambda: (shares_of(batches, epoch, self.devices) for epoch in epochs)),
            "steps_per_epoch": batches.num_batches,
        }
        if validation is not None:
            even = even_shares(len(validation.labels), validation.batch_size, self.devices)
            found["validation_data"] = self._dataset(validation, lambda: iter([even]))
            found["validation_steps"] = len(even) // self.devices
        return found

    def train_one_step(self, model: Any, batches: Batches) -> float:
        """Train on the first batch of the first epoch and return its loss."""
        data = {**self.data(batches, None, range(1)), "steps_per_epoch": 1}
        return float(model.fit(**data, shuffle=False, verbose=0).history["loss"][0])

    def _dataset(self, batches: Batches, plan: Callable[[], Iterator[list[Positions]]]) -> Any:
        """Return a dataset that gives one share to each device in turn, over all epochs of the plan.

        Keras treats it as endless and prefetches across the end of an epoch, so the order of an epoch cannot come from
        `Batches.begin_epoch`.
        """
        data = loaded_tensorflow().data
        example = batches.rows(np.arange(1))
        signature = tuple(loaded_tensorflow().TensorSpec((None, *array.shape[1:]), array.dtype) for array in example)
        options = data.Options()
        options.autotune.enabled = False  # otherwise releasing an iterator may take as long as using it did
        stream = data.Dataset.from_generator(
            lambda: (batches.rows(chosen) for shares in plan() for chosen in shares), output_signature=signature
        )
        stream = stream.prefetch(PREFETCHED_BATCHES * self.devices).with_options(options)
        return self.strategy.distribute_datasets_from_function(lambda context: stream)


def mirror_of(distribution: Distribution) -> Mirror | None:
    """Return the mirrored devices for TensorFlow; None on one device, and with JAX."""
    if not distribution.is_shared or keras.backend.backend() != "tensorflow":
        return None
    return Mirror(distribution.strategy)


def shares_of(batches: Batches, epoch: int, devices: int) -> list[Positions]:
    """Return the examples of every device, in turn, for every step of an epoch.

    The shares of a batch differ in size by one at most, and none is empty: a batch with fewer images than devices is
    repeated as a whole, which changes neither its mean loss nor its batch-norm statistics.
    """
    order, size = batches.order_of(epoch), batches.batch_size
    starts = range(0, len(order), size)
    return [share for start in starts for share in _split(order[start : start + size], devices)]


def even_shares(examples: int, batch_size: int, devices: int) -> list[Positions]:
    """Return the validation examples of every device, in turn: all of them once, in shares of nearly equal size.

    No metric depends on an example's batch, so a small last batch is spread instead of repeated.
    """
    steps = max(1, min(-(-examples // batch_size), examples // devices))
    return _split(np.arange(examples), steps * devices) if examples >= devices else _split(np.arange(examples), devices)


def _split(chosen: Positions, parts: int) -> list[Positions]:
    return np.array_split(np.tile(chosen, -(-parts // len(chosen))), parts)


def summed(gradients: Any) -> Any:
    """Return the sums of gradients over all devices, inside a training step; unchanged on a single device."""
    if keras.backend.backend() != "tensorflow":
        return gradients
    replica = loaded_tensorflow().distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return gradients
    return replica.all_reduce("SUM", list(gradients))


@contextmanager
def as_on_one_device(model: Any) -> Iterator[None]:
    """Mark a model's batch norm as unsynchronized while it is saved: other backends refuse to load it otherwise."""
    layers = [layer for layer in batch_norms(model) if layer.synchronized]
    for layer in layers:
        layer.synchronized = False
    try:
        yield
    finally:
        for layer in layers:
            layer.synchronized = True


def mirrored_strategy(devices: int | None, kind: str) -> Any:
    """Return a `MirroredStrategy` over devices of one kind, or None for one device.

    `devices` None uses all GPUs, or the CPU as one; `kind` is "gpu", or "cpu", which is split into virtual devices.
    Raises a `MachineError` if there are fewer, or TensorFlow has already initialized the CPU as one device.
    """
    names = _gpus(devices) if kind == "gpu" else _parts_of_processor(devices or 1)
    return loaded_tensorflow().distribute.MirroredStrategy(names) if len(names) > 1 else None


def _gpus(devices: int | None) -> list[str]:
    names = [device.name for device in loaded_tensorflow().config.list_logical_devices("GPU")]
    if devices is not None and devices > len(names):
        raise MachineError(f"distribute.devices is {devices}, but TensorFlow sees {counted(len(names), 'GPU')}")
    return names[:devices]


def _parts_of_processor(devices: int) -> list[str]:
    if devices > 1:
        config = loaded_tensorflow().config
        [processor] = config.list_physical_devices("CPU")
        try:
            found = config.get_logical_device_configuration(processor) or []
            if len(found) < devices:
                config.set_logical_device_configuration(processor, [config.LogicalDeviceConfiguration()] * devices)
        except RuntimeError:
            raise MachineError(
                f"the processor cannot be split into {devices} devices: this process already computes on it; "
                "train in a separate process"
            ) from None
    return [f"CPU:{number}" for number in range(devices)]
