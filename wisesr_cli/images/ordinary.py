"""Decodes ordinary JPEG and PNG files by calling the libraries below Pillow directly.

Pillow's readers also extract much else, which takes most of the time for a small image. This module handles the kinds
that make up nearly all of a dataset: 8-bit RGB or grey, as JPEG with one or several scans, or PNG without transparency.
For anything else, functions return None and Pillow decodes the file and reports errors. The pixels are identical to
Pillow's.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from wisesr_cli.images import formats
from wisesr_cli.images.color import Pixels

_SEGMENT_LIMIT = 200  # before the pixels; a colour profile of 1 MB takes 16
_SCANS = 25  # allowed in a JPEG of any size (see `pillow.py`); ten are usual


class Ordinary(NamedTuple):
    """The header of an ordinary image."""

    format: str  # JPEG or PNG
    mode: str  # Pillow's: RGB or L
    width: int  # as stored
    height: int
    orientation: int  # EXIF, 1 to 8
    start: int  # of the pixels: after the header of the first scan, or at the first IDAT chunk
    profile: bytes | None = None  # ICC


def parse(prefix: bytes) -> Ordinary | None:
    """Return the header of a file from its first bytes; None if they are too few or the file is not ordinary."""
    if prefix.startswith(_JPEG_START):
        return _parse_jpeg(prefix)
    return _parse_png(prefix) if prefix.startswith(_PNG_START) else None


def load(found: Ordinary, content: bytes, scale: int) -> Pixels | None:
    """Return the pixels as stored, in RGB; the sides of a JPEG are divided by `scale` (1, 2, 4, 8) and rounded up.

    Returns None for a damaged file. `content` is the whole file, `found` its header.
    """
    try:
        if found.format == "JPEG":
            return _load_jpeg(found, content, scale)
        return _load_png(found, content)
    except Exception:  # a damaged file, or a Pillow version whose arguments differ
        return None


def _parse_jpeg(prefix: bytes) -> Ordinary | None:
    """Parse the segments up to the first scan."""
    frame, exif, xmp = b"", None, False
    profile: list[bytes] = []
    position = 2
    for _ in range(_SEGMENT_LIMIT):
        first, marker, high, low = prefix[position : position + 4].ljust(4, b"\0")
        start, position = position + 4, position + 2 + (high << 8 | low)
        if first != 0xFF or not start <= position <= len(prefix):
            return None
        if marker == _SCAN:
            return _described(frame, exif, xmp, position, _joined(profile))
        body = prefix[start:position]
        if marker in _FRAMES and not frame:
            frame = body
        elif marker == _EXIF and exif is None and body.startswith(b"Exif\0\0"):
            exif = body
        elif marker == _EXIF and body.startswith(_XMP):
            xmp = True
        elif marker in _FRAMES or not _is_harmless(marker, body):
            return None
        elif marker == _PROFILE and body.startswith(_PROFILE_START):
            profile.append(body)
    return None


def _joined(segments: list[bytes]) -> bytes | None:
    """Return the ICC profile in the segments of a JPEG; None if there is none or a segment is missing."""
    length = len(_PROFILE_START)
    if not segments or segments[0][length + 1] != len(segments):
        return None
    return b"".join(segment[length + 2 :] for segment in sorted(segments))


def _described(frame: bytes, exif: bytes | None, xmp: bool, start: int, profile: bytes | None) -> Ordinary | None:
    mode = _MODES.get(frame[5]) if len(frame) > 5 else None
    if mode is None or len(frame) != 6 + 3 * frame[5] or frame[0] != 8:
        return None
    height, width = int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])
    orientation = _orientation(exif, xmp)
    if orientation is None or not width or not height:
        return None
    return Ordinary("JPEG", mode, width, height, orientation, start, profile)


def _is_harmless(marker: int, body: bytes) -> bool:
    """Return whether a segment has no effect in Pillow's reader."""
    check = _CHECKS.get(marker)
    return marker in _HARMLESS if check is None else check(body)


def _is_table(body: bytes) -> bool:
    """Return whether a segment contains complete quantization tables."""
    position = 0
    while position < len(body):
        position += 65 if body[position] < 16 else 129
    return position == len(body)


def _orientation(exif: bytes | None, xmp: bool) -> int | None:
    """Return the orientation; None if it may be in XMP, which only Pillow reads."""
    if exif is None:
        return None if xmp else 1
    tags = Image.Exif()
    try:
        tags.load(exif)
        orientation = tags.get(_ORIENTATION_TAG)
    except Exception:  # damaged EXIF
        return None
    if orientation is None:
        return None if xmp else 1
    return int(orientation) if orientation in range(1, 9) else 1


def _load_jpeg(found: Ordinary, content: bytes, scale: int) -> Pixels | None:
    if not _has_few_scans(content, found.start):
        return None
    width, height = -(-found.width // scale), -(-found.height // scale)
    smallest = {} if scale == 1 else {"min_width": width, "min_height": height}
    pixels: Pixels = simplejpeg.decode_jpeg(content, "RGB", strict=True, **smallest)
    return pixels if pixels.shape == (height, width, 3) else None


def jpeg_damage(content: bytes) -> str:
    """Return the JPEG library's message about damage in a file that can still be decoded; empty if it is intact."""
    said = ""
    for strict in (True, False):
        try:
            simplejpeg.decode_jpeg(content, "GRAY", strict=strict, min_width=1, min_height=1)
        except ValueError as error:
            said = str(error)
        else:
            return said
    return ""  # a kind of JPEG that only Pillow decodes


def _has_few_scans(content: bytes, start: int) -> bool:
    """Return whether the file has at most `_SCANS` scans, and few segments."""
    following = _MARKER.search(content, start)
    if following is None:
        return False
    if following[0] == b"\xff\xd9":
        return True
    scans = 0
    for number, marker in enumerate(formats.jpeg_markers(io.BytesIO(content))):
        scans += marker == formats.JPEG_SCAN
        if scans > _SCANS or number > _SEGMENT_LIMIT:
            return False
    return True


def _parse_png(prefix: bytes) -> Ordinary | None:
    chunks = _chunks(prefix)
    kind, start, end = next(chunks, (b"", 0, 0))
    header = prefix[start:end]
    if kind != b"IHDR" or len(header) != 13 or header[8:] not in _PNG_KINDS or not _is_intact(prefix, kind, start, end):
        return None
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    for kind, start, end in chunks:
        if kind == b"IDAT":
            return Ordinary("PNG", _PNG_KINDS[header[8:]], width, height, 1, start - 8) if width and height else None
        if _PNG_HARMLESS.get(kind) != end - start or not _is_intact(prefix, kind, start, end):
            return None
    return None


def _chunks(content: bytes, position: int = 8) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, start and end of each chunk; the last may end beyond `content`."""
    while position + 8 <= len(content):
        start = position + 8
        end = start + int.from_bytes(content[position : position + 4])
        yield content[position + 4 : start], start, end
        position = end + 4


def _is_intact(content: bytes, kind: bytes, start: int, end: int) -> bool:
    return zlib.crc32(content[start:end], zlib.crc32(kind)) == int.from_bytes(content[end : end + 4])


def _load_png(found: Ordinary, content: bytes) -> Pixels | None:
    """Decode the IDAT chunks; return None unless they are consecutive and only the end chunk follows."""
    parts: list[bytes] = []
    for kind, start, end in _chunks(content, found.start):
        if kind == b"IEND" and end + 4 <= len(content):
            return _unpack(found, parts[0] if len(parts) == 1 else b"".join(parts))
        if kind != b"IDAT":
            return None
        parts.append(content[start:end])
    return None


def _unpack(found: Ordinary, packed: bytes) -> Pixels | None:
    """Decompress the pixels; return None if data may be missing at the end, which the decoder does not report."""
    untouched = _UNTOUCHED[found.mode]
    image = Image.new(found.mode, (found.width, found.height), untouched)
    image.frombytes(packed, "zip", (found.mode,))
    if image.getpixel((found.width - 1, found.height - 1)) == untouched:
        return None
    return np.array(image if found.mode == "RGB" else image.convert("RGB"), np.uint8)


_ORIENTATION_TAG = 0x0112
_SCAN, _EXIF, _PROFILE = 0xDA, 0xE1, 0xE2
_PROFILE_START = b"ICC_PROFILE\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive
_MODES = {1: "L", 3: "RGB"}  # by the number of components
# A marker after the first scan, other than a restart.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
# Huffman tables, restart intervals, application segments and comments.
_HARMLESS = {0xC4, 0xDD, *range(0xE0, 0xF0), 0xFE} - {0xED}  # 0xED: Photoshop segments, which Pillow parses
_CHECKS: dict[int, Callable[[bytes], bool]] = {
    0xDB: _is_table,
    0xE0: lambda body: not body.startswith(b"JFIF") or len(body) >= 12,
    0xE1: lambda body: not body.startswith(b"Exif\0\0"),  # a second EXIF segment: Pillow joins them
    0xE2: lambda body: not body.startswith((b"MPF\0", b"ICC_PROFILE\0")) or (body[:1] == b"I" and len(body) > 13),
    0xEE: lambda body: not body.startswith(b"Adobe") or len(body) >= 12,
}

_JPEG_START = b"\xff\xd8\xff"
_PNG_START = b"\x89PNG\r\n\x1a\n"
STARTS = (_JPEG_START, _PNG_START)  # first bytes of files that may be ordinary
_PNG_KINDS = {b"\x08\x02\0\0\0": "RGB", b"\x08\0\0\0\0": "L"}  # 8 bits, not interlaced
_UNTOUCHED: dict[str, int | tuple[int, ...]] = {"RGB": (187, 3, 91), "L": 91}  # rarely the last pixel
_PNG_HARMLESS = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"tIME": 7, b"sBIT": 3, b"bKGD": 6}  # with lengths
