"""Streams of images: decodes paths in order, slightly ahead, and yields the resulting records."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

from wisesr_cli.data.oddities import Tally
from wisesr_cli.errors import ImageError
from wisesr_cli.images import decoding
from wisesr_cli.images.color import Pixels
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.machine.threads import always, map_in_batches

Record = TypeVar("Record")


@dataclass(frozen=True)
class Decoded:
    """One input of a stream: its pixels (height, width, channels) and header, or the error."""

    path: str
    pixels: Pixels | None
    error: str | None = None
    header: decoding.ImageHeader | None = None


def decode_in_order(
    paths: Iterable[str],
    *,
    image_size: tuple[int, int],
    preparation: Preparation,
    batch_size: int,
    pixel_limit: int = decoding.PIXEL_LIMIT,
    ready: Callable[[], bool] = always,
) -> Generator[list[Decoded], None, None]:
    """Yield the decoded inputs in order, in lists of at most `batch_size`; `paths` is read only slightly ahead.

    A list is shorter when `ready` returns False. Closing the generator early stops the threads.
    """

    def decode(path: str) -> Decoded:
        try:
            pixels, header = decoding.decode_with_header(
                path, image_size=image_size, preparation=preparation, pixel_limit=pixel_limit
            )
        except ImageError as error:
            return Decoded(path, None, str(error))
        return Decoded(path, pixels, header=header)

    return map_in_batches(decode, paths, batch_size=batch_size, ready=ready)


class Records(Iterator[Record]):
    """Iterates over records as they are computed, and owns the files, locks and threads open meanwhile.

    A caller that stops early calls `close`. `held` is closed after the last record or on an error; `tally` also counts
    the records of an earlier process.
    """

    def __init__(self, records: Generator[Record, None, None], held: ExitStack, tally: Tally) -> None:
        self._records, self._held, self.tally = records, held, tally
        held.callback(records.close)

    def __next__(self) -> Record:
        """Return the next record."""
        try:
            return next(self._records)
        except StopIteration:
            self._held.close()
            raise
        except BaseException:
            with self._held:
                raise

    def close(self) -> None:
        """Release everything, also before the last record."""
        self._held.__exit__(GeneratorExit, GeneratorExit(), None)

    def __del__(self) -> None:
        self.close()
