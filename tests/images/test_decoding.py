from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hostile_images import ORIENTATION, PNG_START, chunk, encoded
from image_references import COLUMNS, NOISE, SMOOTH, difference, reason, reference
from PIL import Image

from wisesr_cli.errors import ImageError
from wisesr_cli.images import formats
from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.images.decoding import decode_image, decode_with_header, read_header
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.images.supported import SUPPORTED


def png(pixels: np.ndarray, bits: int, colour_type: int, *extra: tuple[bytes, bytes]) -> bytes:
    height, width = pixels.shape[:2]
    dtype = ">u2" if bits == 16 else "u1"
    lines = b"".join(b"\0" + line.astype(dtype).tobytes() for line in pixels.reshape(height, -1))
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + b"".join(chunk(*one) for one in extra)
    return PNG_START + body + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND")


@pytest.mark.parametrize("format_name", SUPPORTED)
def test_every_supported_format_matches_the_reference_despite_trailing_data(format_name: str) -> None:
    data = encoded(SMOOTH, format_name)
    for more in (b"", b"\0" * 10_000):
        assert np.array_equal(decode_image(data + more, image_size=None), reference(data))
    assert read_header(io.BytesIO(data)).format == format_name
    assert formats.format_of(data[: formats.PREFIX_BYTES]) == format_name


@pytest.mark.reliability(6)
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "YCbCr", "LAB"])
def test_colour_modes_are_converted_to_rgb_like_the_reference(mode: str) -> None:
    image = Image.fromarray(SMOOTH)
    image = Image.merge("LAB", image.split()) if mode == "LAB" else image.convert(mode)
    data = encoded(image, "TIFF")
    assert Image.open(io.BytesIO(data)).mode == mode
    assert np.array_equal(decode_image(data, image_size=None), reference(data))


@pytest.mark.reliability(6)
def test_inverted_adobe_cmyk_jpeg_keeps_its_colours() -> None:
    data = encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    assert difference(decode_image(data, image_size=None), SMOOTH) < 4


@pytest.mark.reliability(6)
@pytest.mark.parametrize("bits_per_pixel", [16, 32])
def test_bitfield_bmp_has_the_colours_of_its_masks(bits_per_pixel: int) -> None:
    masks = (0xF800, 0x07E0, 0x001F) if bits_per_pixel == 16 else (0xFF0000, 0xFF00, 0xFF)
    body = struct.pack("<4H" if bits_per_pixel == 16 else "<4I", *masks, 0)
    header = struct.pack("<IiiHHIIiiII", 40, 4, -1, 1, bits_per_pixel, 3, len(body), 0, 0, 0, 0)
    start = 14 + 40 + 12
    data = b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + struct.pack("<3I", *masks) + body
    expected = [[[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]]
    assert decode_image(data, image_size=None).tolist() == expected


RAMP = np.arange(256).reshape(16, 16)
DEEP = {  # files of more than 8 bits, and the depth in their header
    **{name: (encoded((RAMP * 257).astype(np.uint16), name), 16) for name in ("PNG", "TIFF", "PPM")},
    "big-endian TIFF": (encoded((RAMP * 257).astype(">u2"), "TIFF"), 16),
    "TIFF of wide integers": (encoded((RAMP * 257).astype(np.int32), "TIFF"), None),
    "PNG in colour": (png(np.repeat(RAMP[..., None] * 257, 3, axis=2), 16, 2), 16),
    "TIFF from 0 to 1": (encoded(RAMP.astype(np.float32) / np.float32(255), "TIFF"), None),
    "TIFF of floats from 0 to 255": (encoded(RAMP.astype(np.float32), "TIFF"), None),
}


@pytest.mark.reliability(6)
@pytest.mark.parametrize("case", DEEP)
def test_a_ramp_of_more_than_8_bits_keeps_its_256_levels(case: str) -> None:
    data, bits = DEEP[case]
    assert np.array_equal(decode_image(data, image_size=None), np.repeat(RAMP[..., None], 3, axis=2))
    assert bits is None or read_header(io.BytesIO(data)).bits == bits


def test_nan_and_infinity_in_a_tiff_are_clipped_without_a_warning() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 100.0]], np.float32)
    assert decode_image(encoded(values, "TIFF"), image_size=None)[0, :, 0].tolist() == [0, 255, 0, 100]
    kinds = np.array([[0x7FC00000, 0x7F800001, 0xFF800001, 0x7FFFFFFF]], np.uint32).view(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(encoded(kinds, "TIFF"), image_size=None).max() == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "F", "I;16"])
def test_converting_rows_in_bands_matches_converting_the_whole(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if mode in ("RGBA", "LA"):
        image = Image.fromarray(NOISE).convert(mode)
        image.putalpha(Image.fromarray(COLUMNS.astype(np.uint8)))
        data = encoded(image, "PNG")
    elif mode == "P":
        data = encoded(Image.fromarray(NOISE).convert("P"), "PNG", transparency=7)
    elif mode == "F":
        data = encoded((COLUMNS / 200).astype(np.float32), "TIFF")
    else:
        data = encoded((COLUMNS * 400).astype(np.uint16), "PNG")
    whole = decode_image(data, image_size=None)
    monkeypatch.setattr("wisesr_cli.images.depth._BAND_PIXELS", 1000)  # 6 of 120 rows
    assert np.array_equal(decode_image(data, image_size=None), whole)
    assert len(np.unique(whole)) > 5


@pytest.mark.reliability(6)
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("format_name", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_composited_over_the_background(mode: str, format_name: str) -> None:
    if (mode, format_name) == ("LA", "WEBP"):
        pytest.skip("WebP has no grey")
    alpha = Image.fromarray((COLUMNS % 256).astype(np.uint8))
    image = Image.fromarray(SMOOTH).convert(mode)
    image.putalpha(alpha)
    rgb, share = np.asarray(image.convert("RGB")).astype(float), np.asarray(alpha)[..., None] / 255
    expected = rgb * share + np.array(BACKGROUND) * (1 - share)
    options = {"lossless": True, "exact": True} if format_name == "WEBP" else {}
    data = encoded(image, format_name, **options)
    assert np.abs(decode_image(data, image_size=None) - expected).max() <= 1
    assert read_header(io.BytesIO(data)).alpha


def test_transparent_colours_show_the_background() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([250, 20, 30, 10, 240, 60])
    palette.putdata([0, 1])
    cases = [
        encoded(palette, "PNG", transparency=0),
        encoded(palette, "GIF", transparency=0),
        png(np.array([[[7, 7, 7], [10, 240, 60]]]), 8, 2, (b"tRNS", struct.pack(">3H", 7, 7, 7))),
        png(np.array([[[1799] * 3, [2570, 61680, 15420]]]), 16, 2, (b"tRNS", struct.pack(">3H", 1799, 1799, 1799))),
    ]
    for data in cases:
        assert decode_image(data, image_size=None).tolist() == [[list(BACKGROUND), [10, 240, 60]]]
    grey = png(np.array([[300, 25700]]), 16, 0, (b"tRNS", struct.pack(">H", 300)))
    assert decode_image(grey, image_size=None)[0, :, 0].tolist() == [255, 100]


@pytest.mark.reliability(5)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, format_name: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(SMOOTH, format_name, exif=exif)
    expected = reference(data)
    assert np.array_equal(decode_image(data, image_size=None), expected)
    header = read_header(io.BytesIO(data))
    assert (header.height, header.width) == expected.shape[:2]
    upright = encoded(expected, "PNG")
    small = decode_image(data, image_size=(30, 40))
    assert np.array_equal(small, decode_image(upright, image_size=(30, 40))) or format_name == "JPEG"


@pytest.mark.reliability(3)
@pytest.mark.parametrize("share", [0.5, 0.99])
@pytest.mark.parametrize("pixels", [SMOOTH, NOISE])
@pytest.mark.parametrize(
    ("format_name", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "jpeg"}),
    ],
)
@pytest.mark.parametrize("image_size", [None, (8, 8)])
def test_truncated_file_is_rejected_not_filled(
    format_name: str, options: dict[str, object], pixels: np.ndarray, share: float, image_size: tuple[int, int] | None
) -> None:
    data = encoded(pixels, format_name, **options)
    with pytest.raises(ImageError, match=r"^truncated (JPEG|PNG|WebP|BMP|PPM|TIFF)$"):
        decode_image(data[: int(len(data) * share)], image_size=image_size)


def test_truncated_gif_and_png_without_its_end_chunk_are_rejected() -> None:
    data = encoded(NOISE, "GIF")
    assert reason(data[: len(data) // 2]) == "truncated GIF"
    assert reason(encoded(SMOOTH, "PNG")[:-12]) == "truncated PNG"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty file"),
        (b"Just some text.\n" * 100, "not an image"),
        (b"BMW is a car, and this is a text about it.", "not an image"),
        (b"P3 is a processor", "not an image"),
        (b"{}", "not an image"),
        (b"%PDF-1.7\n", "not a supported format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a supported format"),
        (b"\xc5\xd0\xd3\xc6" + bytes(30), "not a supported format"),
        (b"\0\0\1\0\1\0\x10\x10", "not a supported format"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "truncated AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "truncated HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "not a supported format"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "truncated JPEG 2000"),
        (b"8BPS\0\1" + bytes(20), "not a supported format"),
        (b'<?xml version="1.0"?>\n<svg/>', "not a supported format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a supported format"),
        (b"\xff\xd8\xff", "truncated JPEG"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
    ],
)
def test_reason_tells_empty_truncated_unsupported_and_non_image_files_apart(
    content: bytes, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert reason(path) == expected


@pytest.mark.reliability(9)
@pytest.mark.parametrize("format_name", ["ICO", "TGA", "PCX", "SGI", "DDS", "PDF", "EPS", "ICNS"])
def test_unlisted_formats_are_rejected(format_name: str) -> None:
    data = encoded(Image.fromarray(SMOOTH).resize((64, 64)), format_name)
    assert reason(data) in ("not a supported format", "not an image")


def test_missing_files_folders_pipes_and_odd_names_are_image_errors(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    loop = tmp_path / "loop.jpg"
    loop.symlink_to(loop)
    assert {reason(path) for path in (pipe, "/dev/zero", tmp_path)} == {"not a regular file"}
    assert {reason(path) for path in (tmp_path / "absent.jpg", "a\0b.jpg")} == {"no such file"}
    assert reason(tmp_path / ("x" * 300)) == "file name too long"
    assert "link" in reason(loop)


@pytest.mark.reliability(7)
@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animated_image_is_decoded(format_name: str) -> None:
    first, second = Image.new("RGB", (9, 7), (255, 0, 0)), Image.new("RGB", (9, 7), (0, 0, 255))
    options = {"lossless": True} if format_name == "WEBP" else {}
    data = encoded(first, format_name, save_all=True, append_images=[second], **options)
    assert read_header(io.BytesIO(data)).animated
    assert not read_header(io.BytesIO(encoded(first, format_name))).animated
    assert (decode_image(data, image_size=None) == (255, 0, 0)).all()


@pytest.mark.parametrize("damage", [b"!", b",", b"!\xf9\0", b"," + b"\xff" * 9])
def test_damage_after_the_first_frame_of_a_gif_is_ignored(damage: bytes) -> None:
    data = encoded(SMOOTH, "GIF")
    damaged = data[:-1] + damage
    pixels, header = decode_with_header(damaged, image_size=(120, 160), preparation=Preparation(), pixel_limit=10**6)
    assert np.array_equal(pixels, decode_image(data, image_size=(120, 160)))
    assert header == read_header(io.BytesIO(damaged))
    assert not header.animated


@pytest.mark.parametrize("planes", [1, 2])
def test_tiff_with_missing_strips_is_rejected_not_filled(planes: int) -> None:
    whole = encoded(SMOOTH, "TIFF", tiffinfo={278: 10})  # 12 strips of 10 rows
    image = Image.open(io.BytesIO(whole))
    assert len(image.tag_v2[273]) == 12
    assert np.array_equal(decode_image(whole, image_size=None), SMOOTH)
    entry = struct.pack("<HHI", 273, 4, 12)
    assert whole.count(entry) == 1
    cut = whole.replace(entry, struct.pack("<HHI", 273, 4, 11))
    assert reason(cut) == "damaged TIFF: parts of the picture are missing"


def test_pillows_warnings_do_not_reach_the_terminal() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\xff" + b"\x01\x12\0\3"
    data = encoded(SMOOTH, "JPEG", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(data, image_size=None).shape == SMOOTH.shape
        assert read_header(io.BytesIO(data)).orientation == 1
        decode_image(png(np.zeros((9000, 10000)), 8, 0), image_size=(2, 2))  # Pillow warns above 89 megapixels


def test_image_with_damaged_exif_is_decoded() -> None:
    for exif in (b"Exif\0\0", b"Exif\0\0II", b"Exif\0\0" + b"\xff" * 40):
        data = encoded(SMOOTH, "JPEG", exif=exif)
        assert decode_image(data, image_size=None).shape == SMOOTH.shape


def test_header_is_read_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {name: encoded(SMOOTH, name) for name in SUPPORTED if name != "GIF"}
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    for name, data in sources.items():
        header = read_header(io.BytesIO(data))
        assert (header.format, header.width, header.height) == (name, 160, 120)
