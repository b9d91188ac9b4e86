"""Ordinary JPEG and PNG files take a fast path to the same decoders, with the pixels and errors of Pillow's readers."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile_images
import numpy as np
import pytest
from hostile_images import ORIENTATION, chunk
from PIL import Image, ImageOps

from wisesr_cli.errors import ImageError
from wisesr_cli.images import opening, ordinary
from wisesr_cli.images.decoding import decode_image, decode_with_header, header_of_prefix, read_header
from wisesr_cli.images.preparation import Preparation

ROWS, COLUMNS = np.mgrid[0:97, 0:131]
PICTURE = np.stack([ROWS * 2, COLUMNS, (ROWS * COLUMNS) // 50], axis=-1).astype(np.uint8)
WAYS = [(None, "squash"), ((30, 40), "squash"), ((12, 12), "crop"), ((14, 9), "pad")]


def encoded(pixels: np.ndarray, format_name: str, mode: str = "RGB", **options: Any) -> bytes:
    return hostile_images.encoded(Image.fromarray(pixels).convert(mode), format_name, **options)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif.tobytes()


def oriented(kind: int, content: bytes) -> bytes:
    """Return an EXIF segment whose orientation has an unusual type."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12" + struct.pack(">HI", kind, 1) + content


def jpegs() -> Iterator[bytes]:
    for mode in ("RGB", "L"):
        for subsampling in (0, 1, 2):
            yield encoded(PICTURE, "JPEG", mode, subsampling=subsampling)
        yield encoded(PICTURE, "JPEG", mode, progressive=True)
        yield encoded(PICTURE, "JPEG", mode, restart_marker_blocks=3, comment=b"\xff\xda" * 9)
        yield encoded(PICTURE[:1, :1], "JPEG", mode)
        yield encoded(PICTURE, "JPEG", mode, icc_profile=b"profile" * 20_000)
    for orientation in range(10):
        yield encoded(PICTURE, "JPEG", exif=turned(orientation))
    yield with_segment(0xE1, oriented(5, b"\0\0\0\x1a\0\0\0\0\0\0\0\6\0\0\0\1"))  # the rational number 6/1
    yield with_segment(0xEE, b"Adobe\0\x64\0\0\0\0\0")  # its channels are RGB
    yield encoded(PICTURE, "JPEG") + b"\0\xff\xda" * 1000  # a film after the photo


def pngs() -> Iterator[bytes]:
    for mode in ("RGB", "L"):
        yield encoded(PICTURE, "PNG", mode, dpi=(72, 72))
        yield encoded(PICTURE[:1, :1], "PNG", mode)
        yield in_pieces(encoded(PICTURE, "PNG", mode), 100)


def with_segment(marker: int, content: bytes, **options: Any) -> bytes:
    data = encoded(PICTURE, "JPEG", **options)
    return data[:2] + bytes((0xFF, marker)) + struct.pack(">H", 2 + len(content)) + content + data[2:]


def with_chunk(kind: bytes, content: bytes) -> bytes:
    data = encoded(PICTURE, "PNG")
    return data[:33] + chunk(kind, content) + data[33:]


def in_pieces(png: bytes, size: int) -> bytes:
    start = png.index(b"IDAT") + 4
    packed = png[start : start + int.from_bytes(png[start - 8 : start - 4])]
    pieces = [chunk(b"IDAT", packed[at : at + size]) for at in range(0, len(packed), size)]
    return png[: start - 8] + b"".join(pieces) + chunk(b"IEND", b"")


def unusual() -> Iterator[bytes]:
    """Yield sound files whose pixels, size or mode depend on data that only Pillow's readers interpret."""
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    yield with_segment(0xE1, xmp)
    yield with_segment(0xE1, turned(3), exif=turned(6))  # two EXIF segments are joined
    yield with_segment(0xE2, b"MPF\0" + b"MM\0*\0\0\0\x08\0\0")
    yield encoded(PICTURE, "JPEG", "CMYK")
    for mode in ("RGBA", "LA", "P", "1", "I;16"):
        if mode == "I;16":
            yield encoded(ROWS.astype(np.uint16) * 600, "PNG", mode)
        else:
            yield encoded(PICTURE, "PNG", mode)
    yield with_chunk(b"tRNS", b"\0\0\0\0\0\0")
    yield with_chunk(b"eXIf", turned(6)[6:])
    yield encoded(PICTURE, "PNG", save_all=True, append_images=[Image.fromarray(PICTURE[::-1].copy())])


def by_pillow(monkeypatch: pytest.MonkeyPatch, data: bytes, **options: Any) -> np.ndarray | str:
    with monkeypatch.context() as patch:
        patch.setattr(ordinary, "parse", lambda _: None)
        return outcome(data, **options)


def outcome(data: bytes, **options: Any) -> np.ndarray | str:
    try:
        return decode_image(data, **options)
    except ImageError as error:
        return str(error)


@pytest.mark.parametrize("data", [*jpegs(), *pngs()])
def test_ordinary_files_are_read_as_by_pillows_readers(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ordinary.parse(data) is not None
    for image_size, resize in WAYS:
        options = {"image_size": image_size, "preparation": Preparation(resize)}
        assert np.array_equal(decode_image(data, **options), by_pillow(monkeypatch, data, **options))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert np.array_equal(decode_image(data, image_size=None), np.asarray(upright))
    assert header_of_prefix(data[: opening.PREFIX_BYTES], pixel_limit=10**6) in (None, read_header(io.BytesIO(data)))
    _, header = decode_with_header(data, image_size=(8, 8), preparation=Preparation(), pixel_limit=10**6)
    assert header == read_header(io.BytesIO(data))


@pytest.mark.parametrize("data", list(unusual()))
def test_files_that_only_pillows_readers_understand_are_left_to_them(data: bytes) -> None:
    assert ordinary.parse(data) is None
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert decode_image(data, image_size=None).shape == (*upright.size[::-1], 3)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_fast_path_starts_no_reader_of_pillow(format_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(PICTURE, format_name)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow's reader was started"))
    assert decode_image(data, image_size=(8, 8)).shape == (8, 8, 3)
    assert header_of_prefix(data, pixel_limit=10**6) is not None


def test_damaged_files_have_the_same_outcome_as_with_pillows_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    sources = [
        encoded(PICTURE, "JPEG", exif=turned(6)),
        encoded(PICTURE, "JPEG", progressive=True, restart_marker_blocks=2),
        in_pieces(encoded(PICTURE, "PNG", dpi=(72, 72)), 2000),
    ]
    refused = 0
    for source in sources:
        for number in range(150):
            data = bytearray(source)
            for _ in range(int(random.integers(1, 4))):
                data[random.integers(0, 700 if number % 2 else len(data))] = random.integers(0, 256)
            if number % 5 == 0:
                data = data[: random.integers(1, len(data))]
            here = outcome(bytes(data), image_size=(16, 16))
            there = by_pillow(monkeypatch, bytes(data), image_size=(16, 16))
            assert np.array_equal(here, there)
            refused += isinstance(here, str)
    assert 100 < refused < 400


@pytest.mark.parametrize("rows", [0, 1, 96])
@pytest.mark.parametrize("size", [1, 10**6])
def test_png_whose_stream_ends_before_its_last_row_is_never_filled_in(rows: int, size: int) -> None:
    lines = [b"\0" + PICTURE[row].tobytes() for row in range(rows)]
    png = encoded(PICTURE, "PNG")
    short = in_pieces(png[:33] + chunk(b"IDAT", zlib.compress(b"".join(lines))), size)
    found = ordinary.parse(short)
    assert found is not None
    assert ordinary.load(found, short, 1) is None


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_png_that_ends_with_the_colour_of_untouched_pixels_is_decoded(mode: str) -> None:
    picture = Image.new(mode, (9, 7), ordinary._UNTOUCHED[mode])
    data = encoded(np.asarray(picture), "PNG", mode)
    assert np.array_equal(decode_image(data, image_size=None), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_pillows_readers_take_over_if_the_decoder_arguments_differ(
    format_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(PICTURE, format_name)
    expected = decode_image(data, image_size=None)

    def changed(*_: Any) -> None:
        raise TypeError("function takes exactly 7 arguments (4 given)")

    monkeypatch.setattr(Image.Image, "frombytes", changed)
    assert np.array_equal(decode_image(data, image_size=None), expected)


def test_scans_after_a_complete_one_are_left_to_pillows_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(PICTURE, "JPEG")
    scan = data[data.index(b"\xff\xda") : -2]
    for more in (1, 40):
        many = data[:-2] + scan * more + data[-2:]
        assert isinstance(outcome(many, image_size=None), str)
        assert outcome(many, image_size=None) == by_pillow(monkeypatch, many, image_size=None)


def test_a_large_file_is_not_read_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(PICTURE, "JPEG") + bytes(1000))
    whole = decode_image(path, image_size=(8, 8))
    monkeypatch.setattr(opening, "WHOLE_LIMIT", 1000)
    monkeypatch.setattr(ordinary, "parse", lambda _: pytest.fail("it was read as a whole"))
    assert np.array_equal(decode_image(path, image_size=(8, 8)), whole)


def test_file_longer_than_the_prefix_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(path)
    monkeypatch.setattr(opening, "PREFIX_BYTES", 64)
    assert np.array_equal(decode_image(path, image_size=None), PICTURE)
