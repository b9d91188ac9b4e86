"""Detects the format of a file from its first bytes, and whether the file is truncated.

Decodes nothing and uses only the standard library. To add a format, add its first bytes to `_SUPPORTED` and a
truncation check to `_ENDS_EARLY`; suffixes are in `supported.py`.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO

PREFIX_BYTES = 512
JPEG_SCAN = b"\xda"  # the marker that starts a scan


def format_of(prefix: bytes) -> str | None:
    """Return Pillow's name for the format of a file that starts with `prefix`; None if it is not supported."""
    return next((name for name, pattern in _SUPPORTED.items() if pattern.match(prefix)), None)


def is_other_image(prefix: bytes) -> bool:
    """Return whether a file that starts with `prefix` is an image or document in an unsupported format."""
    return _OTHERS.match(prefix) is not None


def is_cut_short(format_name: str, file: IO[bytes]) -> bool:
    """Return whether a file that could not be decoded is truncated."""
    size = file.seek(0, io.SEEK_END)
    try:
        return _ENDS_EARLY[format_name](file, size)
    except (struct.error, IndexError):  # shorter than its required fields
        return True


def early_size(format_name: str, prefix: bytes) -> tuple[int, int]:
    """Return (width, height) from the first bytes of a PNG or WebP, (0, 0) for other formats.

    WebP must be checked early: its decoder allocates the whole canvas when it opens a file.
    """
    if len(prefix) < 30:
        return 0, 0
    if format_name == "PNG":
        return int.from_bytes(prefix[16:20]), int.from_bytes(prefix[20:24])
    return _webp_size(prefix) if format_name == "WEBP" else (0, 0)


def _webp_size(prefix: bytes) -> tuple[int, int]:
    kind = prefix[12:16]
    if kind == b"VP8X":
        return int.from_bytes(prefix[24:27], "little") + 1, int.from_bytes(prefix[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(prefix[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", prefix, 26)
    return width & 0x3FFF, height & 0x3FFF


def png_ends_early(file: IO[bytes], size: int) -> bool:
    """Return whether a PNG lacks its end chunk; decoders accept that, although pixels may be missing."""
    position = 8
    while position + 12 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IEND":
            return False
        position += length + 12
    return True


def without_extras(file: IO[bytes]) -> IO[bytes] | None:
    """Return a PNG or JPEG without unneeded metadata; None if it has none, is very large, or is in another format.

    Pillow rejects a whole image if its metadata is damaged or unpacks to more than 1 MB.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    parts_of = _WITHOUT_EXTRAS.get(format_of(file.read(PREFIX_BYTES)) or "")
    if parts_of is None or size > _EXTRAS_LIMIT:
        return None
    picture = b"".join(parts_of(file, size))
    return io.BytesIO(picture) if len(picture) < size else None


def _png_parts(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield the chunks of a PNG that affect how it looks: critical ones, transparency, animation, EXIF orientation."""
    file.seek(0)
    yield file.read(8)
    position = 8
    while position + 12 <= size:
        file.seek(position)
        head = file.read(8)
        length, kind = struct.unpack(">I4s", head)
        position += length + 12
        is_extra = kind[0] & 0x20
        if is_extra and (kind not in _PNG_KEPT or _PNG_KEPT[kind] not in (0, length)):
            continue
        body = file.read(length + 4)
        if not is_extra or zlib.crc32(body[:-4], zlib.crc32(kind)) == int.from_bytes(body[-4:]):
            yield head + body


def _jpeg_parts(file: IO[bytes], size: int) -> Iterator[bytes]:
    """Yield a JPEG without comments and application segments, except EXIF and complete Adobe (colour) segments."""
    file.seek(0)
    content = file.read()
    yield content[:2]
    position = 2
    while position + 4 <= size:
        first, marker, high, low = content[position : position + 4]
        if first != 0xFF or marker == JPEG_SCAN[0]:
            break
        segment = content[position : position + 2 + (high << 8 | low)]
        position += max(len(segment), 2)
        is_extra = marker in range(0xE0, 0xF0) or marker == 0xFE
        if not is_extra or segment[4:10] == b"Exif\0\0" or (segment[4:9] == b"Adobe" and len(segment) >= 16):
            yield segment
    yield content[position:]


def is_scalable_jpeg(file: IO[bytes]) -> bool:
    """Return whether a JPEG can be decoded at a fraction of its size; a lossless one cannot."""
    position = file.tell()
    frame = next((marker for marker in jpeg_markers(file) if marker in _JPEG_FRAMES), b"")
    file.seek(position)
    return frame not in _JPEG_LOSSLESS


def jpeg_markers(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the markers of a JPEG that start a segment, keeping one block of the file in memory at a time.

    Skips the content of segments, and data after the end of the image (some phones append a video).
    """
    start, block = 0, b""  # offset of the block in the file
    position = 2  # in the file; everything before it has been processed
    while True:
        marker = _JPEG_MARKER.search(block, max(0, position - start))
        if marker is None:
            start = max(position, start + len(block) - _JPEG_MARKER_BYTES + 1)  # a marker may span two blocks
            file.seek(start)
            block = file.read(_JPEG_BLOCK_BYTES)
            if len(block) < _JPEG_MARKER_BYTES:
                return
        elif marker[1] is None:
            return
        else:
            yield marker[1]
            position = start + marker.start(2) + int.from_bytes(marker[2])


def plain_comments(file: IO[bytes]) -> int:
    """Return an upper bound on the number of comments in a plain-text PPM; 0 for a binary one."""
    file.seek(0)
    if file.read(2) not in (b"P1", b"P2", b"P3"):
        return 0
    comments = 0
    while block := file.read(_BLOCK_BYTES):
        comments += block.count(b"#")
    return comments


def _jpeg_ends_early(file: IO[bytes], size: int) -> bool:
    file.seek(max(0, size - 4096))
    return _JPEG_END not in file.read()


def _gif_ends_early(file: IO[bytes], size: int) -> bool:
    file.seek(max(0, size - 1))
    return file.read(1) != b";"


def _bmp_ends_early(file: IO[bytes], size: int) -> bool:
    file.seek(2)
    (declared,) = struct.unpack("<I", file.read(4))
    return bool(size < declared)


def _webp_ends_early(file: IO[bytes], size: int) -> bool:
    file.seek(4)
    (declared,) = struct.unpack("<I", file.read(4))
    return bool(size < declared + 8)


def _tiff_ends_early(file: IO[bytes], size: int) -> bool:
    file.seek(0)
    order = "<" if file.read(2) == b"II" else ">"
    version, directory = struct.unpack(order + "HI", file.read(6))
    if version != 42 or directory >= size:
        return bool(version == 42)
    file.seek(directory)
    (count,) = struct.unpack(order + "H", file.read(2))
    for _ in range(count):
        _, kind, length, offset = struct.unpack(order + "HHII", file.read(12))
        value_bytes = length * _TIFF_TYPE_BYTES.get(kind, 0)
        if value_bytes > 4 and offset + value_bytes > size:
            return True
    return False


def _jpeg2000_ends_early(file: IO[bytes], size: int) -> bool:
    """Return whether a codestream lacks its end marker, which never occurs in compressed pixels."""
    file.seek(0)
    wanted, rest = b"\xff\x4f\xff\x51", b""
    while block := file.read(_BLOCK_BYTES):
        rest += block
        if wanted != _JPEG_END and (start := rest.find(wanted)) >= 0:
            wanted, rest = _JPEG_END, rest[start:]
        if wanted == _JPEG_END and wanted in rest:
            return False
        rest = rest[-len(wanted) + 1 :]
    return True


def _boxes_end_early(file: IO[bytes], size: int) -> bool:
    """Return whether the last box of an AVIF or HEIC extends beyond the end of the file."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        (length,) = struct.unpack(">I", file.read(4))
        if length == 1:
            file.seek(position + 8)
            (length,) = struct.unpack(">Q", file.read(8))
        position += length
        if length < 8:  # 0: the box extends to the end of the file
            return bool(length)
    return position != size


def _ppm_ends_early(file: IO[bytes], size: int) -> bool:
    file.seek(0)
    header = re.match(rb"P([56])\s+(?:#.*\n\s*)*(\d+)\s+(\d+)\s+(\d+)\s", file.read(PREFIX_BYTES))
    if header is None:  # plain text, whose length is unknown, or a truncated header
        return size < _SHORT_PPM
    kind, width, height, maximum = map(int, header.groups())
    row_bytes = width * (3 if kind == 6 else 1) * (2 if maximum > 255 else 1)
    return size < header.end() + row_bytes * height


_JPEG_FRAMES = {bytes([marker]) for marker in range(0xC0, 0xD0)} - {b"\xc4", b"\xc8", b"\xcc"}
_JPEG_END = b"\xff\xd9"
_JPEG_LOSSLESS = {b"\xc3", b"\xc7", b"\xcb", b"\xcf"}

_EXTRAS_LIMIT = 1 << 26  # bytes; larger files are not read into memory
_PNG_KEPT = {b"tRNS": 0, b"acTL": 8, b"fcTL": 26, b"fdAT": 0, b"eXIf": 0}  # with lengths; 0: any
_WITHOUT_EXTRAS: dict[str, Callable[[IO[bytes], int], Iterable[bytes]]] = {"PNG": _png_parts, "JPEG": _jpeg_parts}

_SUPPORTED = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "WEBP": re.compile(rb"RIFF.{4}WEBPVP8[ LX]", re.DOTALL),
    "TIFF": re.compile(rb"II[*+]\0|MM\0[*+]"),
    # Checking the size of BMP's second header and PPM's first number rules out text that starts with BM or P1.
    "BMP": re.compile(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0", re.DOTALL),
    "PPM": re.compile(rb"P[1-6]\s+(?:#|\d)"),
    # The major brand, or a generic major brand with this one among the compatible brands.
    "AVIF": re.compile(rb".{4}ftyp(?:avi[fs]|m(?:if|sf)1.{4}(?:.{4}){0,9}?avi[fs])", re.DOTALL),
    "HEIF": re.compile(rb".{4}ftyp(?:he(?:ic|ix|im|is|vc|vx|vm|vs)|m(?:if|sf)1)", re.DOTALL),
    "JPEG2000": re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
}

_OTHERS = re.compile(
    rb"%PDF|%!PS|\xc5\xd0\xd3\xc6"  # PDF, PostScript, EPS with a preview
    rb"|\0\0[\x01\x02]\0[^\0]\0|icns"  # ICO, CUR, ICNS
    rb"|.{4}ftyp|.{4}jP  |\xff\x4f\xff\x51|\xff\x0a|.{4}JXL "  # AVIF, HEIC and videos, JPEG 2000, JPEG XL
    rb"|II\xbc\x01|\x59\xa6\x6a\x95"  # JPEG XR, Sun raster
    rb"|8BPS|gimp xcf|DDS |qoif|\x76\x2f\x31\x01|#\?RADIANCE|SIMPLE  =|.{128}DICM"
    rb"|P7\n|P[Ff]\s|\x0a[\x00-\x05]\x01[\x01\x02\x04\x08]|\x01\xda[\x00\x01]"  # PAM, PFM, PCX, SGI
    rb"|RIFF.{4}WEBP|BM.{4}\0{4}"  # variants of supported formats that Pillow cannot read
    rb"|(?:\xef\xbb\xbf)?\s*<(?:\?xml|svg|!DOCTYPE svg)",
    re.DOTALL,
)

_BLOCK_BYTES = 1 << 20
_SHORT_PPM = 12  # bytes before the first pixel: P6 and three numbers
# The end marker, or the marker and length that start a segment.
_JPEG_MARKER = re.compile(rb"\xff(?:\xd9|([\xc0-\xcf\xda-\xfe])(..))", re.DOTALL)
_JPEG_MARKER_BYTES = 4
_JPEG_BLOCK_BYTES = 1 << 16  # small, because only the header of most files is read

_TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}

_ENDS_EARLY: dict[str, Callable[[IO[bytes], int], bool]] = {
    "JPEG": _jpeg_ends_early,
    "PNG": png_ends_early,
    "GIF": _gif_ends_early,
    "WEBP": _webp_ends_early,
    "TIFF": _tiff_ends_early,
    "BMP": _bmp_ends_early,
    "PPM": _ppm_ends_early,
    "AVIF": _boxes_end_early,
    "HEIF": _boxes_end_early,
    "JPEG2000": _jpeg2000_ends_early,
}
# Formats whose decoders fill in missing pixels.
FILLED_IN = {"PNG": png_ends_early, "JPEG2000": _jpeg2000_ends_early}
