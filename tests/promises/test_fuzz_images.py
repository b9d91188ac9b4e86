"""For any bytes, the decoder quickly returns pixels or raises `ImageError`, in bounded memory, and prints nothing."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hostile_images import (
    GREY_TAGS,
    big_png,
    chunk,
    encoded,
    hostile_images,
    photo,
    progressive_with_scans,
    rle_bmp,
    tiff,
    variants,
    with_chunks,
)
from reliability import Seen

from wisesr_cli.errors import ImageError
from wisesr_cli.images.decoding import PIXEL_LIMIT, decode_image, read_header
from wisesr_cli.images.pillow import silence_logs

EXAMPLES = 400  # per seed
SECONDS = 10  # of processor time per file; the slowest takes about five
MEGABYTE = 1_000_000
TELLING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

Random = np.random.Generator


def mutated(content: bytes, others: list[bytes], random: Random) -> bytes:
    """Return a file with one to four changes."""
    for _ in range(random.integers(1, 5)):
        if len(content) < 4:
            break
        change = CHANGES[random.integers(len(CHANGES))]
        content = change(content, others[random.integers(len(others))], random)
    return content


def _flip_bits(content: bytes, other: bytes, random: Random) -> bytes:
    damaged = np.frombuffer(content, np.uint8).copy()
    damaged[random.integers(0, len(damaged), random.integers(1, 9))] ^= np.uint8(1 << random.integers(0, 8))
    return damaged.tobytes()


def _flip_early_bits(content: bytes, other: bytes, random: Random) -> bytes:
    return _flip_bits(content[:64], other, random) + content[64:]


def _put_number(content: bytes, other: bytes, random: Random) -> bytes:
    number = TELLING[random.integers(len(TELLING))]
    length = (1, 2, 4)[random.integers(3)]
    order = ("little", "big")[random.integers(2)]
    where = random.integers(0, len(content) - length + 1)
    return content[:where] + (number % 256**length).to_bytes(length, order) + content[where + length :]


def _cut(content: bytes, other: bytes, random: Random) -> bytes:
    return content[: random.integers(1, len(content))]


def _remove(content: bytes, other: bytes, random: Random) -> bytes:
    start, end = _span(content, random)
    return content[:start] + content[end:]


def _repeat(content: bytes, other: bytes, random: Random) -> bytes:
    start, end = _span(content, random)
    return content[:end] + content[start:end] * int(random.integers(1, 50)) + content[end:]


def _insert(content: bytes, other: bytes, random: Random) -> bytes:
    where = random.integers(0, len(content))
    start, end = _span(other, random)
    return content[:where] + other[start:end] + content[where:]


def _span(content: bytes, random: Random) -> tuple[int, int]:
    start = int(random.integers(0, len(content)))
    return start, start + int(random.integers(1, 200))


CHANGES: tuple[Callable[[bytes, bytes, Random], bytes], ...] = (
    _flip_bits,
    _flip_early_bits,
    _put_number,
    _cut,
    _remove,
    _repeat,
    _insert,
)


def try_all(content: bytes, pixel_limit: int = PIXEL_LIMIT) -> str:
    """Read a file's header, decode it at 8x8 pixels and at full size, and return the outcome."""
    try:
        header = read_header(io.BytesIO(content), pixel_limit=pixel_limit)
    except ImageError as error:
        assert_short(error)
        header = None
    outcome = "decoded"
    for size in ((8, 8), None):
        try:
            pixels = decode_image(content, image_size=size, pixel_limit=pixel_limit)
        except ImageError as error:
            assert_short(error)
            outcome = str(error)
            continue
        assert header is not None
        assert pixels.shape == (*(size or (header.height, header.width)), 3)
        assert pixels.dtype == np.uint8
    return outcome


def assert_short(error: ImageError) -> None:
    assert 0 < len(str(error)) < 150
    assert str(error).isprintable()


@pytest.fixture(autouse=True)
def _nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Capture file descriptors, as C libraries print without going through Python."""
    yield
    assert capfd.readouterr() == ("", "")


@pytest.mark.reliability(9)
@pytest.mark.parametrize("seed", range(8))
def test_changed_files_decode_or_raise_image_error(seed: int, seen: Seen) -> None:
    random = np.random.default_rng(seed)
    whole = list(variants().values())
    outcomes = Counter(
        try_all(mutated(whole[random.integers(len(whole))], whole, random), pixel_limit=MEGABYTE)
        for _ in range(EXAMPLES)
    )
    assert outcomes["decoded"] > EXAMPLES // 20  # the changes are mild enough that some files still decode
    assert sum(outcomes.values()) - outcomes["decoded"] > EXAMPLES // 5
    seen(f"{EXAMPLES} changed files of seed {seed}: {outcomes['decoded']} decoded, the others raise ImageError")


def test_every_hostile_image_decodes_or_raises_image_error() -> None:
    outcomes = Counter(try_all(content, pixel_limit=4 * MEGABYTE) for content in hostile_images().values())
    assert outcomes["decoded"] > 300
    assert len(outcomes) > 20


def test_libtiff_can_be_silenced() -> None:
    assert silence_logs()


# Files that once took long or much memory, and others that might.


def big_jpeg(scans: int) -> bytes:
    return progressive_with_scans(scans, (10_000, 10_000))


def many_strips(count: int) -> bytes:
    tags = [(256, 4, 1, 4), (257, 4, 1, count), *GREY_TAGS[:4], (278, 4, 1, 1)]
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    offsets = [(273, 4, count, start), (279, 4, count, start)]
    return tiff(tags + offsets, struct.pack("<I", 8) * count)


def overlapping_tags(kind: int) -> bytes:
    tags = [(256, 4, 1, 4), (257, 4, 1, 4), *GREY_TAGS, *((1000 + i, kind, 50_000, 8) for i in range(50_000))]
    return tiff(tags, bytes(300_000))


def exif_in_many_parts() -> bytes:
    content = encoded(photo(), "JPEG")
    return content[:2] + (b"\xff\xe1\0\x12Exif\0\0" + bytes(10)) * (MEGABYTE // 20) + content[2:]


def gif_with(body: bytes, *, where: int) -> bytes:
    content = encoded(photo(), "GIF")
    position = content.index(b",", 13) if where == 0 else len(content) - 1
    return content[:position] + body + content[position:]


def animated(format_name: str, frames: int) -> bytes:
    pictures = [photo(size=(2, 2), seed=seed) for seed in range(frames)]
    return encoded(pictures[0], format_name, save_all=True, append_images=pictures[1:])


COSTLY: dict[str, Callable[[], bytes]] = {
    "a plain PPM of comments": lambda: b"P3 1000 100 255\n" + b"#\n" * (MEGABYTE // 2) + b"1 " * 300_000,
    "a plain PPM of comments between numbers": lambda: b"P3 1000 1000 255\n" + b"1#\n" * (MEGABYTE // 3),
    "a PPM header of comments": lambda: b"P6\n" + b"#\n" * (MEGABYTE // 2) + b"1 1 255\nabc",
    "a PPM with an unusual maximum": lambda: b"P6 1000 333 200\n" + b"1" * 999_000,
    "a progressive JPEG of 100 megapixels and 4,000 scans": lambda: big_jpeg(4000),
    "a progressive JPEG of 100 megapixels and 22 scans": lambda: big_jpeg(16),
    "a progressive JPEG of 100 megapixels and 96 scans": lambda: big_jpeg(90),
    "a JPEG with Exif in 50,000 parts": exif_in_many_parts,
    "a JPEG with 250,000 empty segments": lambda: (
        encoded(photo(), "JPEG")[:2] + b"\xff\xe5\0\2" * (MEGABYTE // 4) + encoded(photo(), "JPEG")[2:]
    ),
    "a BMP of one column": lambda: rle_bmp(1, 100_000_000, b"\0\2\xff\xff" * (MEGABYTE // 4)),
    "a BMP of one row": lambda: rle_bmp(100_000_000, 1, b"\0\2\xff\xff" * (MEGABYTE // 4)),
    "a BMP of skips": lambda: rle_bmp(10_000, 10_000, b"\0\2\xff\xff" * (MEGABYTE // 4)),
    "a PNG of one row": lambda: big_png(100_000_000, 1, colour_type=0, channels=1),
    "a PNG of 100 megapixels with alpha and 16 bits": lambda: big_png(
        10_000, 10_000, bits=16, colour_type=6, channels=4
    ),
    "a PNG of 80,000 chunks": lambda: with_chunks(chunk(b"abCD") * (MEGABYTE // 12)),
    "a PNG of 80,000 chunks of pixels": lambda: with_chunks(chunk(b"IDAT") * (MEGABYTE // 12)),
    "a PNG with text that decompresses to 900 MB": lambda: with_chunks(
        chunk(b"zTXt", b"a\0\0" + packed(MEGABYTE)) * 900
    ),
    "a PNG with profiles that decompress to 900 MB": lambda: with_chunks(
        chunk(b"iCCP", b"a\0\0" + packed(MEGABYTE)) * 900
    ),
    "a GIF of 200,000 comments": lambda: gif_with(b"!\xfe\1a\0" * (MEGABYTE // 5), where=0),
    "a GIF of 200,000 extensions behind the picture": lambda: gif_with(b"!\xff\1a\0" * (MEGABYTE // 5), where=-1),
    "a GIF of many frames": lambda: animated("GIF", 3000),
    "a PNG of many frames": lambda: animated("PNG", 3000),
    "a WebP of many frames": lambda: animated("WEBP", 3000),
    "a TIFF of many pages": lambda: animated("TIFF", 1000),
    "a TIFF with overlapping tags": lambda: overlapping_tags(1),
    "a TIFF with overlapping numbers": lambda: overlapping_tags(3),
    "a TIFF of 100,000 strips": lambda: many_strips(100_000),
    "a TIFF whose directory links to itself": lambda: tiff(
        [(256, 4, 1, 9), (257, 4, 1, 9), *GREY_TAGS], bytes(99), next_directory=8
    ),
    "a PNG with overlapping Exif entries": lambda: encoded(photo(), "PNG", exif=shared_exif()),
}


def packed(length: int) -> bytes:
    return zlib.compress(bytes(length), 9)


def shared_exif() -> bytes:
    return b"Exif\0\0" + overlapping_tags(3)


@pytest.mark.reliability(9)
@pytest.mark.parametrize("name", COSTLY)
def test_no_small_file_takes_long_or_much_memory(name: str, seen: Seen) -> None:
    content = COSTLY[name]()
    assert len(content) < 1.7 * MEGABYTE
    before = reset_peak()
    start = time.thread_time()
    outcomes = []
    for work in (lambda: read_header(io.BytesIO(content)), lambda: decode_image(content, image_size=(224, 224))):
        try:
            work()
            outcomes.append("decoded")
        except ImageError as error:
            outcomes.append(str(error))
    seconds = time.thread_time() - start
    grown = peak_megabytes() - before
    assert seconds < SECONDS
    assert grown < 1000
    seen(f"{name} ({len(content) / MEGABYTE:.2f} MB): {outcomes[-1]}, {seconds:.1f} s, {grown:,} MB")


def reset_peak() -> int:
    """Reset this process's peak memory to its current use, and return that in megabytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_megabytes()


def peak_megabytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))
