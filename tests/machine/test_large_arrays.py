"""Arrays in temporary files keep their values and release their memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from wisesr_cli.evaluation.metrics import compute_metrics
from wisesr_cli.machine import large_arrays
from wisesr_cli.machine.large_arrays import large_array, release


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_values_survive_a_release_that_frees_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_arrays, "SMALL_BYTES", 1 << 20)
    before = _resident_bytes()
    array = large_array((64, 1 << 18))  # 64 MiB
    array[:] = np.arange(64, dtype=np.float32)[:, None]
    assert _resident_bytes() - before > 60 << 20
    release(array[3:])
    assert _resident_bytes() - before < 8 << 20
    assert (array.sum(axis=1) == np.arange(64) * (1 << 18)).all()


def test_a_small_array_and_one_that_does_not_fit_on_the_disk_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    assert large_array((2, 3)).base is None
    monkeypatch.setattr(large_arrays, "SMALL_BYTES", 8)
    monkeypatch.setattr(os, "posix_fallocate", full)
    array = large_array((2, 3))
    assert array.base is None
    release(array)


def test_metrics_of_logits_in_a_file_equal_those_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(300, 5)).astype(np.float32), random.integers(0, 5, 300)
    names = [f"class {number}" for number in range(5)]
    monkeypatch.setattr(large_arrays, "SMALL_BYTES", 8)
    monkeypatch.setattr("wisesr_cli.evaluation.metrics._BLOCK_NUMBERS", 100)
    in_file = large_array(logits.shape)
    in_file[:] = logits
    assert compute_metrics(in_file, labels, names) == compute_metrics(logits, labels, names)
