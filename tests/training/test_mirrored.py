"""Several TensorFlow devices: shares in which all examples count equally, and behaviour that Keras alone lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import fresh

from wisesr_cli.data.pixels import epoch_order
from wisesr_cli.errors import MachineError
from wisesr_cli.training.devices.distribution import ALONE
from wisesr_cli.training.devices.mirrored import even_shares, mirror_of, mirrored_strategy, shares_of, summed


class Order:
    """Stand-in for the batches of a split, with what `shares_of` needs."""

    def __init__(self, examples: int, batch_size: int) -> None:
        self.examples, self.batch_size = examples, batch_size

    def order_of(self, epoch: int) -> Any:
        return epoch_order(self.examples, seed=1, epoch=epoch)


@pytest.mark.parametrize(
    ("examples", "batch_size", "devices"), [(29, 8, 2), (29, 8, 4), (24, 8, 3), (9, 9, 8), (8, 4, 1)]
)
def test_shares_partition_each_batch_into_nearly_equal_sizes(examples: int, batch_size: int, devices: int) -> None:
    batches: Any = Order(examples, batch_size)
    shares = shares_of(batches, 3, devices)
    steps = [shares[start : start + devices] for start in range(0, len(shares), devices)]
    assert len(steps) == -(-examples // batch_size)
    assert np.array_equal(np.concatenate(shares), batches.order_of(3))
    for step in steps[:-1]:
        assert sum(map(len, step)) == batch_size
    assert all(max(map(len, step)) - min(map(len, step)) <= 1 for step in steps)


def test_batch_with_fewer_examples_than_devices_is_repeated_as_a_whole() -> None:
    batches: Any = Order(9, 8)
    last = shares_of(batches, 0, 4)[4:]
    assert [share.tolist() for share in last] == [batches.order_of(0)[8:].tolist()] * 4
    batches = Order(3, 8)
    shares = shares_of(batches, 0, 4)
    assert [len(share) for share in shares] == [2, 2, 1, 1]
    assert np.unique(np.concatenate(shares), return_counts=True)[1].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("examples", "batch_size", "devices"), [(11, 8, 2), (33, 32, 32), (1000, 32, 8), (7, 4, 4), (64, 64, 1)]
)
def test_every_validation_example_counts_once(examples: int, batch_size: int, devices: int) -> None:
    shares = even_shares(examples, batch_size, devices)
    assert np.array_equal(np.concatenate(shares), np.arange(examples))
    assert len(shares) % devices == 0
    assert min(map(len, shares)) >= 1
    assert max(map(len, shares)) <= max(2, -(-batch_size // devices))


def test_fewer_validation_examples_than_devices_count_equally() -> None:
    counts = np.bincount(np.concatenate(even_shares(3, 8, 4)))
    assert counts.tolist() == [2, 2, 2]


def test_one_device_neither_sums_nor_mirrors() -> None:
    gradients = [np.ones(2)]
    assert summed(gradients) is gradients
    assert mirror_of(ALONE) is None


def test_more_gpus_than_available_is_a_machine_error() -> None:
    with pytest.raises(MachineError, match=r"distribute\.devices is 64, but TensorFlow sees"):
        mirrored_strategy(64, "gpu")


@pytest.mark.slow
def test_mirrored_devices_behave_correctly_where_keras_alone_falls_short(tmp_path: Path) -> None:
    script = Path(__file__).with_name("mirrored_facts.py")
    facts = json.loads(fresh(cwd=tmp_path, program=(str(script),), timeout=600).worked().out.splitlines()[-1])
    # In float16, an overflow on any device skips the step on all of them; Keras checks only the first device.
    halved = {"weights": [1.0, 2.0], "scale": 4.0}
    assert facts["overflows"] == [halved, halved, {"weights": [0.0, 0.0], "scale": 8.0}]
    # Each device draws its own random numbers.
    assert not np.allclose(*facts["draws"])
    # Batch norm takes the mean over all rows, however they are shared; the saved config does not record it.
    first, second, expected, said, synchronized = facts["statistics"]
    assert first == second
    np.testing.assert_allclose(first, expected, atol=1e-6)
    assert (said, synchronized) == (False, True)
