"""Turns exceptions from decoders into a short reason: the kind of file, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from wisesr_cli.errors import ImageError
from wisesr_cli.images import formats
from wisesr_cli.images.supported import SHOWN_NAMES
from wisesr_cli.images.unsupported import kind_of


class SpoiltError(ImageError):
    """A decoder failed with any exception other than an `ImageError` or a `MemoryError`."""


@contextmanager
def translated(file: IO[bytes], *, of_pillow: bool = True) -> Iterator[None]:
    """Turn any exception from a decoder into an `ImageError` with a short reason.

    `of_pillow`: whether the decoder fails on the same kinds of files as Pillow.
    """
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("not enough memory to decode it") from error
    except Exception as error:
        raise SpoiltError(_reason(error, file, of_pillow)) from error


def _reason(error: Exception, file: IO[bytes], of_pillow: bool) -> str:
    try:
        file.seek(0)
        name = formats.format_of(file.read(formats.PREFIX_BYTES)) or "image"
        cut = "truncated" in str(error).lower() or formats.is_cut_short(name, file)
        kind = kind_of(name, file) if of_pillow and not cut else None
    except (OSError, ValueError, KeyError):
        return "cannot be read"
    if kind is not None:
        return f"a kind of {SHOWN_NAMES.get(name, name)} that is not supported ({kind})"
    return f"{'truncated' if cut else 'damaged'} {SHOWN_NAMES.get(name, name)}"
