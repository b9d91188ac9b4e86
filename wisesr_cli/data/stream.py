"""Decodes a stream of paths in order, in lists of at most a batch, reading only a little ahead."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from wisesr_cli.errors import ImageError
from wisesr_cli.images import decoding
from wisesr_cli.machine.threads import always, map_in_batches


@dataclass(frozen=True)
class Decoded:
    """One input of a stream: its pixels (height, width, 3) and header, or the reason why there are none."""

    path: str
    pixels: decoding.Pixels | None
    error: str | None = None
    header: decoding.ImageHeader | None = None


def decode_in_order(
    paths: Iterable[str],
    *,
    image_size: tuple[int, int],
    resize: decoding.Resize,
    batch_size: int,
    pixel_limit: int = decoding.PIXEL_LIMIT,
    workers: int | None = None,
    ready: Callable[[], bool] = always,
) -> Generator[list[Decoded], None, None]:
    """Give the inputs decoded, in order, in lists of at most `batch_size`; `paths` is read only a little ahead.

    A list is shorter where `ready` says that the next path is yet to come. Closing the generator early stops the
    threads.
    """

    def decode(path: str) -> Decoded:
        try:
            pixels, header = decoding.decode_with_header(
                path, image_size=image_size, resize=resize, pixel_limit=pixel_limit
            )
        except ImageError as error:
            return Decoded(path, None, str(error))
        return Decoded(path, pixels, header=header)

    return map_in_batches(decode, paths, batch_size=batch_size, workers=workers, ready=ready)
