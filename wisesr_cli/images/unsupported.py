"""Names kinds of files that Pillow cannot decode, so that rare but intact files are not reported as damaged.

Reads only headers and uses only the standard library. To name another kind, add it to `_TIFF_RULES` or `_JPEG_KINDS`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import IO

Tags = dict[int, tuple[int, ...]]

_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _FORMAT = 258, 259, 262, 277, 284, 339
_MOST_TAGS, _MOST_VALUES = 1000, 64
_DAMAGE = (struct.error, IndexError, ValueError, OSError, OverflowError)  # OverflowError: an offset beyond any file


def kind_of(format_name: str, file: IO[bytes]) -> str | None:
    """Return the feature of a file that Pillow does not support (`5 bands, ...`), or None if there is none."""
    try:
        return _KINDS[format_name](file) if format_name in _KINDS else None
    except _DAMAGE:
        return None


def planes_of_a_tiff(file: IO[bytes]) -> str | None:
    """Return the kind of a TIFF whose colours are stored in planes that Pillow misreads; None for any other TIFF."""
    try:
        return _planes(_tiff_tags(file))
    except _DAMAGE:
        return None


def _tiff_kind(file: IO[bytes]) -> str | None:
    file.seek(0)
    if file.read(4) == b"MM\0+":
        return "BigTIFF of big-endian numbers"
    tags = _tiff_tags(file)
    file.seek(0)
    if file.read(2) == b"MM" and tags.get(_BITS) == (32,) and tags.get(_FORMAT, (1,)) == (1,):
        return "whole numbers of 32 bits, big-endian"
    return next((kind for rule in _TIFF_RULES if (kind := rule(tags))), None)


def _tiff_tags(file: IO[bytes]) -> Tags:
    """Return the tags of type SHORT, LONG or LONG8 in the first directory, with at most `_MOST_VALUES` values each.

    Raises `struct.error` if the directory is damaged.
    """
    file.seek(0)
    order = "<" if file.read(2) == b"II" else ">"
    (version,) = struct.unpack(order + "H", file.read(2))
    is_big = version == 43
    file.seek(8 if is_big else 4)
    (directory,) = struct.unpack(order + ("Q" if is_big else "I"), file.read(8 if is_big else 4))
    file.seek(directory)
    (count,) = struct.unpack(order + ("Q" if is_big else "H"), file.read(8 if is_big else 2))
    entry = struct.Struct(order + ("HHQ8s" if is_big else "HHI4s"))
    entries = [entry.unpack(file.read(entry.size)) for _ in range(min(count, _MOST_TAGS))]
    tags: Tags = {}
    for tag, kind, length, inline in entries:
        code = {3: "H", 4: "I", 16: "Q"}.get(kind)
        if code is None or not length:
            continue
        values = struct.Struct(f"{order}{min(length, _MOST_VALUES)}{code}")
        if struct.calcsize(code) * length > len(inline):
            file.seek(*struct.unpack(order + ("Q" if is_big else "I"), inline))
            inline = file.read(values.size)
        tags[tag] = values.unpack(inline[: values.size])
    return tags


def _bands(tags: Tags) -> str | None:
    count, is_grey = tags.get(_SAMPLES, (1,))[0], tags.get(_PHOTOMETRIC, (1,))[0] in (0, 1)
    return f"{count:,} bands, which data.channels={count} reads" if count > (1 if is_grey else 4) else None


def _numbers(tags: Tags) -> str | None:
    bits, count = tags.get(_BITS, (1,))[0], tags.get(_SAMPLES, (1,))[0]
    form = {1: "whole numbers", 2: "signed numbers", 3: "floats", 5: "complex numbers", 6: "complex numbers"}
    kind = tags.get(_FORMAT, (1,))[0]
    name = f"{form.get(kind, 'numbers')} of {bits} bits" + (f" in {count} bands" if count > 1 else "")
    is_known = kind == 1 and bits in ((1, 2, 4, 8, 12, 16, 32) if count == 1 else (8, 16))
    is_known |= count == 1 and ((kind == 2 and bits in (8, 16, 32)) or (kind == 3 and bits == 32))
    return None if is_known else name


def _compression(tags: Tags) -> str | None:
    code = tags.get(_COMPRESSION, (1,))[0]
    return None if code in _COMPRESSIONS else f"compression by {_OTHER_COMPRESSIONS.get(code, f'method {code}')}"


def _white(tags: Tags) -> str | None:
    bits = tags.get(_BITS, (1,))[0]
    return f"white as zero in {bits} bits" if tags.get(_PHOTOMETRIC, (1,))[0] == 0 and bits > 8 else None


def _planes(tags: Tags) -> str | None:
    bits = tags.get(_BITS, (1,))[0]
    is_planar = tags.get(_PLANAR, (1,))[0] == 2 and tags.get(_SAMPLES, (1,))[0] > 1
    return f"planes of {bits} bits" if is_planar and bits != 8 else None


def _jpeg_kind(file: IO[bytes]) -> str | None:
    file.seek(2)
    for _ in range(1000):
        first, marker, length = struct.unpack(">BBH", file.read(4))
        if first != 0xFF or marker == 0xDA:
            return None
        body = file.read(length - 2)
        if marker in _JPEG_KINDS:
            bits, kind = body[0], _JPEG_KINDS[marker]
            deep = f"{bits} bits" if bits != 8 else ""
            return ", ".join(filter(None, (kind, deep))) or None
    return None


_TIFF_RULES: tuple[Callable[[Tags], str | None], ...] = (_bands, _planes, _compression, _white, _numbers)
_COMPRESSIONS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946}
_OTHER_COMPRESSIONS = {
    33003: "JPEG 2000", 33004: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34676: "SGI LogL",
    34677: "SGI LogLuv", 34887: "LERC", 34925: "LZMA", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL",
    52546: "JPEG XL", 32809: "ThunderScan", 34661: "JBIG", 34892: "lossy JPEG of DNG", 22610: "JPEG XR",
    34934: "JPEG XR", 34933: "PNG",
}  # fmt: skip
# By frame marker; a common kind ("") is unsupported only with more than 8 bits.
_JPEG_KINDS = {
    0xC0: "", 0xC1: "", 0xC2: "", 0xC3: "lossless", 0xC5: "hierarchical", 0xC6: "hierarchical", 0xC7: "hierarchical",
    0xC9: "arithmetic coding", 0xCA: "arithmetic coding", 0xCB: "lossless, arithmetic coding", 0xCD: "hierarchical",
    0xCE: "hierarchical", 0xCF: "hierarchical", 0xF7: "JPEG-LS",
}  # fmt: skip
_KINDS: dict[str, Callable[[IO[bytes]], str | None]] = {"JPEG": _jpeg_kind, "TIFF": _tiff_kind}
