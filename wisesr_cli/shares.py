"""Who reads what: the rows of a batch and the files of a data set, dealt out to processes.

A batch is filled up to a multiple of the devices, so that each gets as many rows as the others; the rows that were
added stand at its end and are nobody's example.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """The rows of one batch that a process reads: examples, then `added` rows that are none.

    `padding` is how many rows the whole batch was filled up with, over all processes.
    """

    examples: Positions
    added: int
    padding: int


def share_of_batch(batch: Positions, *, process: int, processes: int, devices: int) -> Share:
    """Return the rows of a batch that `process` of `processes` reads, as many for each of all `devices`."""
    padding = -len(batch) % devices
    rows = (len(batch) + padding) // processes
    mine = batch[process * rows : (process + 1) * rows]
    return Share(mine, rows - len(mine), padding)


def share_of_files(positions: Positions, *, process: int, processes: int) -> Positions:
    """Return every `processes`-th of `positions`, so that no process gets all files of a class or of a camera."""
    return positions[process::processes]


def filled_up(rows: NDArray[np.generic], added: int) -> NDArray[np.generic]:
    """Return `rows` with `added` rows of zeros behind them."""
    if not added:
        return rows
    return np.concatenate([rows, np.zeros((added, *rows.shape[1:]), rows.dtype)])
