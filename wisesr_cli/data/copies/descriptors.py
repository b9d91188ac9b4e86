"""Computes short descriptors of pictures that match for copies (re-encoded, resized, mirrored) and differ otherwise.

A picture is reduced to a thumbnail, and its brightness to the `WAVES` x `WAVES` lowest frequencies of the cosine
transform, each multiplied by its frequency, all scaled to unit length. The inner product of two pictures is then the
correlation of their edges, which shared brightness, contrast or background does not raise. Mirroring only flips the
sign of odd horizontal frequencies, so the same products find copies and mirrored copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wisesr_cli.images.color import Pixels

Floats = npt.NDArray[np.floating]

SIDE = 32  # pixels of a thumbnail, both ways
WAVES = 16  # frequencies, both ways
COARSE = 8  # the lowest of these, enough to tell most pictures apart
FEWEST_EDGES = 3.0  # of 255: mean step between neighbouring pixels; below it, noise decides what is alike
ALIKE = 0.96  # correlation of edges; copies reach at least 0.99, except those resized without averaging
TILE = 4  # pixels of a thumbnail, both ways
MOST_DIFFERENT = 0.025  # of the energy of a tile and the mean tile, in any tile
COLOR_TILES = 4  # both ways
MOST_OTHER_COLOR = 24  # of 255, mean of a tile


def _cosines() -> npt.NDArray[np.float32]:
    """Return the orthonormal cosine transform: (WAVES, SIDE)."""
    angles = np.pi / SIDE * np.outer(np.arange(WAVES), np.arange(SIDE) + 0.5)
    scales = np.where(np.arange(WAVES) == 0, 1, 2)[:, None] / SIDE
    return (np.sqrt(scales) * np.cos(angles)).astype(np.float32)


_COSINES = _cosines()
_FREQUENCIES = np.hypot(*np.mgrid[:WAVES, :WAVES]).astype(np.float32)
# Horizontal frequencies, even ones first: mirroring a picture flips the sign of the second half.
_ORDER = np.concatenate([np.arange(0, WAVES, 2), np.arange(1, WAVES, 2)])
_EVEN = WAVES * WAVES // 2
_BRIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Descriptors:
    """The descriptors of pictures, 576 bytes each."""

    edges: npt.NDArray[np.float16]  # (pictures, WAVES * WAVES): of unit length; even horizontal frequencies first
    colors: npt.NDArray[np.float16]  # (pictures, COLOR_TILES, COLOR_TILES, 2): blue and red minus brightness

    @classmethod
    def empty(cls, count: int) -> Descriptors:
        """Return `count` empty descriptors."""
        colors = np.zeros((count, COLOR_TILES, COLOR_TILES, 2), np.float16)
        return cls(np.zeros((count, WAVES * WAVES), np.float16), colors)

    def put(self, position: int, thumbnail: Pixels) -> bool:
        """Describe a thumbnail (SIDE, SIDE, 3); return whether it has enough edges to be compared."""
        values = thumbnail.astype(np.float32)
        brightness = values @ _BRIGHTNESS
        waves = _COSINES @ brightness @ _COSINES.T * _FREQUENCIES  # (vertical, horizontal)
        length = float(np.linalg.norm(waves))
        if length * np.pi / SIDE**2 < FEWEST_EDGES:
            return False
        self.edges[position] = (waves[:, _ORDER].T / length).ravel()
        colors = values[..., [2, 0]] - brightness[..., None]
        side = SIDE // COLOR_TILES
        self.colors[position] = colors.reshape(COLOR_TILES, side, COLOR_TILES, side, 2).mean((1, 3))
        return True

    def taken(self, positions: npt.NDArray[np.intp]) -> Descriptors:
        """Return the descriptors at `positions`."""
        return Descriptors(self.edges[positions], self.colors[positions])


def correlations(first: Floats, second: Floats) -> Floats:
    """Return the correlations of edges, or of mirrored edges where higher: float32 (first, second)."""
    first, second = first.astype(np.float32), second.astype(np.float32)
    half = first.shape[1] // 2
    even, odd = first[:, :half] @ second[:, :half].T, first[:, half:] @ second[:, half:].T
    even += np.abs(odd, out=odd)
    return even


def coarse(edges: Floats) -> Floats:
    """Return the lowest frequencies of edges and the norm of the rest, whose `correlations` are upper bounds."""
    waves = edges.reshape(-1, 2, WAVES // 2, WAVES)[:, :, : COARSE // 2, :COARSE]
    lowest = waves.reshape(len(edges), 2, COARSE // 2 * COARSE).astype(np.float32)
    others = np.zeros((len(edges), 2, 1), np.float32)
    others[:, 0, 0] = np.sqrt(np.maximum(0, 1 - (lowest**2).sum((1, 2))))
    return np.concatenate([lowest, others], 2).reshape(len(edges), COARSE * COARSE + 2)


def are_copies(first: Descriptors, second: Descriptors) -> npt.NDArray[np.bool_]:
    """Return which pairs agree in edges and colours in every part of the picture: (pairs,)."""
    edges = [each.edges.astype(np.float32) for each in (first, second)]
    odd = (edges[0][:, _EVEN:] * edges[1][:, _EVEN:]).sum(1)
    is_mirrored = odd < 0
    edges[1][is_mirrored, _EVEN:] *= -1
    colors = second.colors.copy()
    colors[is_mirrored] = colors[is_mirrored][:, :, ::-1]
    drawn = [_drawn(each) for each in edges]
    energy = _tiles(drawn[0]) + _tiles(drawn[1]) + (TILE / SIDE) ** 2
    differs = (_tiles(drawn[0] - drawn[1]) > MOST_DIFFERENT * energy).any((1, 2))
    other_color = (np.abs(first.colors - colors) > MOST_OTHER_COLOR).any((1, 2, 3))
    copies: npt.NDArray[np.bool_] = ~differs & ~other_color
    return copies


def _drawn(edges: Floats) -> Floats:
    """Return edges as pictures: (pictures, SIDE, SIDE), horizontal axis first."""
    waves = np.empty((len(edges), WAVES, WAVES), np.float32)
    waves[:, _ORDER] = edges.reshape(-1, WAVES, WAVES)
    return _COSINES.T @ waves @ _COSINES


def _tiles(pictures: Floats) -> Floats:
    """Return the energy of every tile: (pictures, SIDE / TILE, SIDE / TILE)."""
    count = SIDE // TILE
    energy: Floats = (pictures**2).reshape(-1, count, TILE, count, TILE).sum((2, 4))
    return energy
