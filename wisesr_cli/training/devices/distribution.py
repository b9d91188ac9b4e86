"""Which devices share the work of a training, and which part of every batch is this process's.

A batch is that of the whole training: its rows are dealt to the devices of all processes in order, and what a step
computes of them (loss, gradients, statistics of batch norm) is that of the whole batch. JAX: Keras' `DataParallel`.
TensorFlow: `MirroredStrategy` over the GPUs of one process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from wisesr_cli.processes.channel import ALONE_CHANNEL, Channel


@dataclass(frozen=True)
class Distribution:
    """How the work is shared out.

    `processes`, `process`: how many take part, and which of them this is.
    `local_devices`: how many devices each process has. `strategy`: what the backend shares the work out with, None for
    one device: a `keras.distribution.DataParallel`, or a `tensorflow.distribute.MirroredStrategy`. `channel`: the way
    to the other processes.
    """

    processes: int = 1
    process: int = 0
    local_devices: int = 1
    strategy: Any = None
    channel: Channel = ALONE_CHANNEL

    @property
    def devices(self) -> int:
        """How many devices there are in all."""
        return self.processes * self.local_devices

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and shows everything."""
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
        """Build models of this process alone within the block, which the others know nothing of."""
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
        """Say how many devices there are, for a person; empty for one."""
        if not self.is_shared:
            return ""
        where = f" in {self.processes} processes" if self.processes > 1 else ""
        return f"{self.devices} devices{where}"


ALONE = Distribution()
