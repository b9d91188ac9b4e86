"""Trains on several devices of one machine with TensorFlow: each holds the whole model and takes its share of a batch.

`MirroredStrategy` and Keras do most of it. What they leave undone is here: shares of unequal size in which every image
counts alike, batch norm over the whole batch, random draws that differ from device to device, and batches that are read
ahead without ever being those of another epoch.
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
from wisesr_cli.model_files.loading import layers_of
from wisesr_cli.text import counted
from wisesr_cli.training.devices.distribution import Distribution

if TYPE_CHECKING:
    from wisesr_cli.training.batches import Batches

BATCHES_AHEAD = 2  # that wait on the host while one is trained on

Positions = NDArray[np.int64]
Arrays = tuple[NDArray[Any], ...]


class MirroredModel(keras.Model):
    """A model whose gradient is that of the mean over the whole batch, however its images are shared out."""

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, *rest: Any, **options: Any) -> Any:
        """Return the loss of this device's share, of which Keras adds up gradients as if all shares were equal.

        The value stays as it is; the gradient is multiplied by the size of the share over that of the mean share.
        """
        loss = super().compute_loss(x, y, y_pred, *rest, **options)
        replica = loaded_tensorflow().distribute.get_replica_context()
        if replica is None:  # outside of a step
            return loss
        size = ops.cast(ops.shape(y)[0], loss.dtype)
        share = size * replica.num_replicas_in_sync / replica.all_reduce("SUM", size)
        return loss * share + ops.stop_gradient(loss * (1 - share))

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Build nothing: the trainer did, and Keras would average a first batch whose shares may differ in size.

        A private method of Keras, which `fit` calls whatever is built; nothing public keeps it from the first batch.
        """


class Mirror:
    """The devices that train together, the first of which is the one that is saved.

    Args:
        strategy: a `tensorflow.distribute.MirroredStrategy`, in whose scope the model is built.
    """

    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy
        self.devices = int(strategy.num_replicas_in_sync)

    def build_model(self, pixels: Any, logits: Any) -> Any:
        """Return the model to train, from symbolic pixels to symbolic logits; its batch norm sees whole batches."""
        model = MirroredModel(pixels, logits, name="training")
        for layer in batch_norms(model):
            layer.synchronized = True
        return model

    def tell_apart(self, variable: Any) -> None:
        """Give every device another state of a seed generator; the first one keeps the state that all have.

        With the same one, all devices would turn, shift and drop out alike.
        """
        copies = self.strategy.experimental_local_results(variable.value)
        state = np.asarray(copies[0])
        for number, copy in enumerate(copies[1:], start=1):
            seed = np.random.SeedSequence([*state.tolist(), number])
            copy.assign((seed.generate_state(len(state)) & np.uint32(0x7FFFFFFF)).astype(state.dtype))

    def data(self, batches: Batches, validation: Batches | None, epochs: range) -> dict[str, Any]:
        """Return the arguments of `fit` that make it train on `batches`, share by share."""
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
        """Train on the first batch of the first epoch, as `fit` does, and return its loss."""
        data = {**self.data(batches, None, range(1)), "steps_per_epoch": 1}
        return float(model.fit(**data, shuffle=False, verbose=0).history["loss"][0])

    def _dataset(self, batches: Batches, plan: Callable[[], Iterator[list[Positions]]]) -> Any:
        """Return a dataset that gives the devices in turn one share each, over all epochs of the plan.

        Keras takes it for endless, and reads ahead over the end of an epoch, which is why the order of an epoch does
        not come from `Batches.begin_epoch`.
        """
        data = loaded_tensorflow().data
        example = batches.rows(np.arange(1))
        signature = tuple(loaded_tensorflow().TensorSpec((None, *array.shape[1:]), array.dtype) for array in example)
        options = data.Options()
        options.autotune.enabled = False  # else letting go of an iterator may take as long as using it did
        stream = data.Dataset.from_generator(
            lambda: (batches.rows(chosen) for shares in plan() for chosen in shares), output_signature=signature
        )
        stream = stream.prefetch(BATCHES_AHEAD * self.devices).with_options(options)
        return self.strategy.distribute_datasets_from_function(lambda context: stream)


def mirror_of(distribution: Distribution) -> Mirror | None:
    """Return the devices that train together with TensorFlow; None on one device, and with JAX."""
    if not distribution.is_shared or keras.backend.backend() != "tensorflow":
        return None
    return Mirror(distribution.strategy)


def shares_of(batches: Batches, epoch: int, devices: int) -> list[Positions]:
    """Return which examples every device takes in turn in every step of an epoch.

    The shares of a batch differ in size by one at most, and none is empty: a batch with fewer images than there are
    devices is repeated as a whole, which changes neither the mean of its losses nor its batch-norm statistics.
    """
    order, size = batches.order_of(epoch), batches.batch_size
    starts = range(0, len(order), size)
    return [share for start in starts for share in _split(order[start : start + size], devices)]


def even_shares(examples: int, batch_size: int, devices: int) -> list[Positions]:
    """Return which of the validation examples every device takes in turn: all of them once, in shares of one size.

    Where an example belongs matters for no metric, so a small rest is spread instead of repeated.
    """
    steps = max(1, min(-(-examples // batch_size), examples // devices))
    return _split(np.arange(examples), steps * devices) if examples >= devices else _split(np.arange(examples), devices)


def _split(chosen: Positions, parts: int) -> list[Positions]:
    return np.array_split(np.tile(chosen, -(-parts // len(chosen))), parts)


def summed(gradients: Any) -> Any:
    """Return the sums of gradients over all devices that train together; as they are where one trains alone.

    For the inside of a training step.
    """
    if keras.backend.backend() != "tensorflow":
        return gradients
    replica = loaded_tensorflow().distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return gradients
    return replica.all_reduce("SUM", list(gradients))


def batch_norms(model: Any) -> list[Any]:
    """Return the batch-norm layers of a model, those of models inside it, too."""
    return [layer for layer in layers_of(model) if isinstance(layer, keras.layers.BatchNormalization)]


@contextmanager
def as_on_one_device(model: Any) -> Iterator[None]:
    """Let a model say nothing of several devices while it is saved: other backends refuse to load what does."""
    layers = [layer for layer in batch_norms(model) if layer.synchronized]
    for layer in layers:
        layer.synchronized = False
    try:
        yield
    finally:
        for layer in layers:
            layer.synchronized = True


def mirrored_strategy(devices: int | None, kind: str) -> Any:
    """Return what shares a training out over devices of one kind, or None where that is one device.

    Args:
        devices: how many; None takes all GPUs, or the processor as one.
        kind: "gpu", or "cpu", which is made into as many devices as are asked for.

    Raises:
        MachineError: there are fewer, or TensorFlow has begun to compute on the processor as one device.
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
                f"the processor cannot be made into {devices} devices: this process computes on it already; "
                "train in a process of its own"
            ) from None
    return [f"CPU:{number}" for number in range(devices)]
