"""How a training is distributed over devices and processes.

The rows of a global batch are distributed over the devices of all processes in order; loss, gradients and batch-norm
statistics are those of the global batch. JAX: Keras' `DataParallel`. TensorFlow: `MirroredStrategy` in one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from wisesr_cli.processes.channel import ALONE_CHANNEL, Channel


@dataclass(frozen=True)
class Distribution:
    """The devices and processes of a training.

    `process`: the rank of this one, from 0. `local_devices`: number of devices per process. `strategy`: a
    `keras.distribution.DataParallel` or a `tensorflow.distribute.MirroredStrategy`; None for one device.
    """

    processes: int = 1
    process: int = 0
    local_devices: int = 1
    strategy: Any = None
    channel: Channel = ALONE_CHANNEL

    @property
    def devices(self) -> int:
        """Total number of devices."""
        return self.processes * self.local_devices

    @property
    def is_main(self) -> bool:
        """Whether this process, of rank 0, writes and shows everything."""
        return self.process == 0

    @property
    def is_shared(self) -> bool:
        """Whether there is more than one device."""
        return self.strategy is not None

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Build and train a model over all devices within the block."""
        if self.strategy is None:
            yield
        else:
            with self.strategy.scope():
                yield

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Build models local to this process within the block."""
        if self.processes == 1:
            yield
            return
        import keras

        before = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)

    def __str__(self) -> str:
        """Return the number of devices as text; empty for one."""
        if not self.is_shared:
            return ""
        where = f" in {self.processes} processes" if self.processes > 1 else ""
        return f"{self.devices} devices{where}"


ALONE = Distribution()
