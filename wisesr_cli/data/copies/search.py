"""Finds the most similar pictures among any number of them, one block of products at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wisesr_cli.data.copies.descriptors import ALIKE, Descriptors, Floats, are_copies, coarse, correlations
from wisesr_cli.listening import Listener

MOST_PARTNERS = 4  # per picture, so that a thousand frames of one film do not give half a million pairs
BLOCK = 2048  # pictures; a block of products takes 16 MiB
_ROUNDING = 0.001  # error of float16
_PAIRS = 4096  # compared in detail at a time

Positions = npt.NDArray[np.intp]


def find_pairs(pictures: Descriptors, places: Positions, same: Positions, listener: Listener) -> Positions:
    """Return the positions of pictures that are copies, as sorted pairs: (pairs, 2).

    Pictures with equal `places` (pictures,) are not compared, nor those with equal, non-negative `same` (pictures,).
    Time is quadratic in the number of pictures, memory is not.
    """
    closest = _Closest(len(places))
    lowest = coarse(pictures.edges)
    starts = range(0, len(places), BLOCK)
    with listener.progress("comparing pictures", len(starts) * (len(starts) + 1) // 2) as progress:
        for start in starts:
            for other in range(start, len(places), BLOCK):
                bounds = correlations(lowest[start : start + BLOCK], lowest[other : other + BLOCK])
                rows, columns = np.nonzero(bounds >= ALIKE - _ROUNDING)
                differ = places[start + rows] != places[other + columns]
                first, second = start + np.unique(rows[differ]), other + np.unique(columns[differ])
                if len(first):
                    alike = correlations(pictures.edges[first], pictures.edges[second])
                    alike[places[first, None] == places[second]] = 0
                    alike[(same[first, None] == same[second]) & (same[first, None] >= 0)] = 0
                    closest.offer(first, alike, second)
                    if other > start:
                        closest.offer(second, alike.T, first)
                progress.advance()
    pairs = closest.pairs()
    chunks = [pairs[start : start + _PAIRS] for start in range(0, len(pairs), _PAIRS)]
    kept = [chunk[are_copies(pictures.taken(chunk[:, 0]), pictures.taken(chunk[:, 1]))] for chunk in chunks]
    return np.concatenate([pairs[:0], *kept])


class _Closest:
    """For every picture, the partners whose edges correlate most with its own."""

    def __init__(self, count: int) -> None:
        self._values = np.zeros((count, MOST_PARTNERS), np.float32)
        self._partners = np.zeros((count, MOST_PARTNERS), np.intp)

    def offer(self, pictures: Positions, alike: Floats, partners: Positions) -> None:
        """Keep those of `partners` that are closer than the ones so far; `alike` is (pictures, partners)."""
        chosen = _highest(alike)
        values = np.concatenate([self._values[pictures], np.take_along_axis(alike, chosen, 1)], 1)
        known = np.concatenate([self._partners[pictures], partners[chosen]], 1)
        chosen = _highest(values)
        self._values[pictures] = np.take_along_axis(values, chosen, 1)
        self._partners[pictures] = np.take_along_axis(known, chosen, 1)

    def pairs(self) -> Positions:
        """Return the pairs that may be copies, each once, lower position first: (pairs, 2)."""
        pictures, ranks = np.nonzero(self._values >= ALIKE)
        return np.unique(np.sort(np.stack([pictures, self._partners[pictures, ranks]], 1), 1), axis=0)


def _highest(values: Floats) -> Positions:
    """Return the positions of the highest values of each row, at most `MOST_PARTNERS`."""
    if values.shape[1] <= MOST_PARTNERS:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(-values, MOST_PARTNERS - 1, axis=1)[:, :MOST_PARTNERS]
