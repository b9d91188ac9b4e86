"""Sorts very many names in little memory. Standard library only."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice

RUN = 4096  # names that are held as they are


def in_order(names: Iterable[str]) -> Iterator[str]:
    """Give names sorted as `sorted` does; all of them are read before this returns, and kept in packed runs.

    A name takes a few bytes so, where a Python string takes fifty and its characters. None may hold NUL.
    """
    rest = iter(names)
    runs = []
    while run := sorted(islice(rest, RUN)):
        runs.append(zlib.compress("\0".join(run).encode("utf-8", "surrogatepass"), 1))
    return heapq.merge(*map(_unpacked, runs))


def _unpacked(run: bytes) -> Iterator[str]:
    """Give the names of a run one by one: merging begins all runs at once."""
    decompressor = zlib.decompressobj()
    rest = b""
    while not decompressor.eof:
        *whole, rest = (rest + decompressor.decompress(run, 512)).split(b"\0")
        run = decompressor.unconsumed_tail
        for name in whole:
            yield name.decode("utf-8", "surrogatepass")
    yield rest.decode("utf-8", "surrogatepass")
