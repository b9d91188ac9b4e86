"""Grey and multi-band images: how every way to store them is read, and which files are rejected and why."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from banded import STORED, tiff
from image_references import NOISE, SMOOTH, reason
from PIL import Image

from wisesr_cli.errors import ImageError
from wisesr_cli.images import bands
from wisesr_cli.images.color import bands_text, checked_bands, shown
from wisesr_cli.images.decoding import decode_image, decode_with_header, read_header, read_values
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.machine.installation import install_line

BANDS = np.random.default_rng(0).integers(0, 256, (24, 30, 5), dtype=np.uint8)
FIVE, GREY = Preparation(channels=5), Preparation(channels=1)


def outcome(source: bytes, **options: object) -> np.ndarray | str:
    """Return the pixels of five bands, or the reason for rejecting the file."""
    try:
        return decode_image(source, image_size=None, preparation=FIVE, **options)
    except ImageError as error:
        return str(error)


def packed(kind: str, image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("options", STORED.values(), ids=STORED)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_bands_are_read_completely_however_they_are_stored(options: dict[str, object], dtype: str) -> None:
    if dtype == "float32" and options.get("predictor"):
        options = {**options, "predictor": 3}
    full = {"uint8": BANDS, "uint16": BANDS * np.uint16(257), "int16": BANDS.astype(np.int16) * 128}
    values = full.get(dtype, BANDS.astype(np.float32))
    source = tiff(values, **options)
    np.testing.assert_array_equal(decode_image(source, image_size=None, preparation=FIVE), BANDS)
    stored = read_values(source, pixel_limit=10_000, preparation=FIVE)
    assert (stored is None) == (dtype == "uint8")
    if stored is not None:
        np.testing.assert_array_equal(stored.stored, values)


def test_every_band_has_its_own_range() -> None:
    values = np.stack([np.full((2, 3), 100.0), np.full((2, 3), -5.0), np.full((2, 3), np.nan)], -1).astype("float32")
    values = np.concatenate([values, values], -1)[..., :5]
    ranges = ((0.0, 400.0), (-10.0, 0.0), (0.0, 1.0), (100.0, 101.0), (-5.0, 0.0))
    prepared = Preparation(channels=5, value_range=ranges)
    pixels = decode_image(tiff(values, planarconfig="contig"), image_size=None, preparation=prepared)
    assert pixels[0, 0].tolist() == [64, 128, 0, 0, 0]
    np.testing.assert_array_equal(  # 8-bit values are not scaled
        decode_image(tiff(BANDS, planarconfig="contig"), image_size=None, preparation=prepared), BANDS
    )


def test_every_band_is_resized_like_a_grey_image() -> None:
    source = tiff(np.dstack([SMOOTH, SMOOTH[..., :1], NOISE[..., :1]]), planarconfig="contig")
    for resize in ("squash", "crop", "pad"):
        found = decode_image(source, image_size=(40, 33), preparation=Preparation(resize, channels=5))
        for band in range(5):
            alone = np.dstack([SMOOTH, SMOOTH[..., :1], NOISE[..., :1]])[..., band]
            grey = decode_image(
                packed("PNG", Image.fromarray(alone)), image_size=(40, 33), preparation=Preparation(resize, channels=1)
            )
            assert np.abs(found[..., band].astype(int) - grey[..., 0]).max() <= 1


def test_bands_are_turned_upright() -> None:
    tag = (274, "H", 1, 6, True)  # the first row is the right-hand side
    source = tiff(BANDS, planarconfig="contig", extratags=[tag])
    pixels, header = decode_with_header(source, image_size=(30, 24), preparation=FIVE, pixel_limit=10_000)
    np.testing.assert_array_equal(pixels, np.rot90(BANDS, -1))
    assert (header.width, header.height, header.mode, header.bits, header.format) == (24, 30, "5 bands", 8, "TIFF")
    assert header == read_header(source, preparation=FIVE)


def test_alpha_is_kept_as_a_band_and_composited_over_white_for_grey() -> None:
    rgba = np.dstack([SMOOTH, NOISE[..., 0]])
    for kind in ("PNG", "TIFF"):
        four = decode_image(packed(kind, Image.fromarray(rgba)), image_size=None, preparation=Preparation(channels=4))
        np.testing.assert_array_equal(four, rgba)
    source = packed("PNG", Image.fromarray(rgba[..., [0, 3]], "LA"))
    two = decode_image(source, image_size=None, preparation=Preparation(channels=2))
    np.testing.assert_array_equal(two, rgba[..., [0, 3]])
    grey = decode_image(source, image_size=None, preparation=GREY)
    np.testing.assert_array_equal(grey[..., 0], decode_image(source, image_size=None)[..., 1])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP-RGB", "PALETTE"])
def test_grey_equals_each_channel_of_the_image_read_as_rgb(kind: str) -> None:
    image = Image.fromarray(SMOOTH[..., 0])
    if kind == "WEBP-RGB":  # WebP has no grey mode: the file is RGB
        assert reason(packed("WEBP", image), preparation=GREY) == "has 3 channels, not 1 (data.channels)"
        return
    source = packed("PNG", image.convert("P")) if kind == "PALETTE" else packed(kind, image)
    for size in (None, (50, 61)):
        rgb = decode_image(source, image_size=size)
        np.testing.assert_array_equal(decode_image(source, image_size=size, preparation=GREY), rgb[..., :1])
        assert (rgb == rgb[..., :1]).all()


def test_16_bit_grey_is_scaled_by_its_range() -> None:
    image = Image.fromarray(np.array([[0, 1000, 4095], [4096, 2047, 9]], np.uint16))
    prepared = Preparation(channels=1, value_range=(0.0, 4095.0))
    for kind in ("PNG", "TIFF"):
        found = decode_image(packed(kind, image), image_size=None, preparation=prepared)
        assert found[..., 0].tolist() == [[0, 62, 255], [255, 127, 1]]


@pytest.mark.reliability(61)
@pytest.mark.parametrize(
    ("source", "channels", "found"),
    [
        (packed("PNG", Image.fromarray(SMOOTH)), 1, 3),
        (packed("JPEG", Image.fromarray(SMOOTH)), 1, 3),
        (packed("JPEG", Image.fromarray(SMOOTH).convert("CMYK")), 4, 3),
        (packed("PNG", Image.fromarray(SMOOTH).quantize()), 1, 3),
        (packed("PNG", Image.fromarray(np.dstack([SMOOTH, SMOOTH[..., 0]]))), 1, 4),
        (packed("PNG", Image.fromarray(SMOOTH[..., 0])), 4, 1),
        (packed("JPEG", Image.fromarray(SMOOTH[..., 0])), 2, 1),
        (packed("TIFF", Image.fromarray(SMOOTH)), 4, 3),
        (tiff(BANDS, planarconfig="contig"), 4, 5),
        (tiff(BANDS), 4, 5),
        (tiff(np.zeros((4, 4, 66), np.uint8)), 4, 65),  # later pages are not read
    ],
)
def test_wrong_number_of_channels_is_rejected_with_both_numbers(source: bytes, channels: int, found: int) -> None:
    wanted = Preparation(channels=channels)
    said = f"has {found} channel{'s' if found > 1 else ''}, not {channels} (data.channels)"
    assert reason(source, preparation=wanted) == said
    with pytest.raises(ImageError, match=f"^has {found} channel"):
        read_header(source, preparation=wanted)


def test_pixel_limit_is_enforced_before_unpacking(monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiff(np.zeros((100, 200, 5), np.float32), planarconfig="contig", compression="zlib")
    monkeypatch.setattr(bands, "_values", lambda *_: pytest.fail("unpacked"))
    said = reason(source, preparation=FIVE, pixel_limit=19_999)
    assert said.startswith("over the pixel limit of 19,999 pixels (200x100)")
    # Five floats exceed the 16 bytes per pixel that the limit assumes.
    assert reason(source, preparation=FIVE, pixel_limit=20_000).startswith("over 320,000 bytes of values")


def with_tag(source: bytes, tag: int, value: int) -> bytes:
    """Return a little-endian TIFF with one tag, a single short or long number, set to `value`."""
    (start,) = struct.unpack_from("<I", source, 4)
    (count,) = struct.unpack_from("<H", source, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        found, kind = struct.unpack_from("<HH", source, entry)
        if found == tag:
            changed = bytearray(source)
            struct.pack_into("<H" if kind == 3 else "<I", changed, entry + 8, value)
            return bytes(changed)
    raise AssertionError(f"no tag {tag}")


@pytest.mark.reliability(61)
def test_data_that_unpacks_to_more_than_declared_is_not_fully_unpacked() -> None:
    honest = tiff(np.zeros((16, 16, 5), np.uint8), planarconfig="contig", compression="zlib")
    bomb = zlib.compress(bytes(200_000_000), 9)
    source = with_tag(with_tag(honest, 279, len(bomb)), 273, len(honest)) + bomb
    tracemalloc.start()
    found = outcome(source)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert isinstance(found, np.ndarray) or found == "damaged TIFF"  # the declared part is complete, and all zeros


@pytest.mark.reliability(61)
@pytest.mark.parametrize("options", STORED.values(), ids=STORED)
def test_file_truncated_anywhere_is_rejected(options: dict[str, object]) -> None:
    source = tiff(np.random.default_rng(1).integers(0, 60_000, (40, 40, 5)).astype(np.uint16), **options)
    whole = decode_image(source, image_size=None, preparation=FIVE)
    for end in np.linspace(9, len(source) - 1, 12).astype(int).tolist():
        found = outcome(source[:end])
        if isinstance(found, str):  # if it stores pages, those after the cut are missing
            assert found.startswith(("truncated TIFF", "damaged TIFF") if options else ("trunc", "damaged", "has "))
        else:  # the last bytes only say that no page follows
            assert end > len(source) - 8
            np.testing.assert_array_equal(found, whole)


@pytest.mark.reliability(61)
def test_damaged_file_is_read_or_rejected_with_a_one_line_reason() -> None:
    for options in (STORED["planes"], STORED["strips"], STORED["pages"], STORED["tiles of planes"]):
        source = tiff(BANDS * np.uint16(100), **options)
        for seed in range(60):
            draws = np.random.default_rng(seed)
            spoilt = np.frombuffer(source, np.uint8).copy()
            spoilt[draws.integers(4, len(spoilt), 6)] = draws.integers(0, 256, 6)
            found = outcome(spoilt.tobytes(), pixel_limit=100_000)
            assert "\n" not in found if isinstance(found, str) else found.shape[2] == 5


def test_unsupported_kinds_are_named() -> None:
    jpeg = tiff(SMOOTH, "rgb", compression="jpeg")
    assert "compression by JPEG" in reason(jpeg, preparation=Preparation(channels=4))
    wide = tiff(BANDS.astype(np.complex64), planarconfig="contig")
    assert "complex64" in reason(wide, preparation=FIVE)
    deep = Image.fromarray(np.dstack([SMOOTH, SMOOTH[..., 0]]))
    source = packed("PNG", deep)
    header = bytearray(source)
    header[24] = 16  # bits per value; the checksum is recomputed below
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4)
    assert "16 bits" in reason(bytes(header), preparation=Preparation(channels=4))


def test_missing_packages_are_reported_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "find_spec", lambda name: None if name == "tifffile" else object())
    said = f"reading bands needs tifffile and imagecodecs; install them with: {install_line('bands')}"
    assert reason(tiff(BANDS), preparation=FIVE) == said
    rgba = packed("PNG", Image.fromarray(np.dstack([SMOOTH, SMOOTH[..., 0]])))
    assert decode_image(rgba, image_size=(8, 8), preparation=Preparation(channels=4)).shape == (8, 8, 4)


def test_file_on_disk_is_read_like_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.lsm"  # a vendor's suffix makes no difference
    path.write_bytes(tiff(BANDS, planarconfig="contig"))
    np.testing.assert_array_equal(decode_image(path, image_size=None, preparation=FIVE), BANDS)
    with path.open("rb") as file:
        assert read_header(file, preparation=FIVE).height == 24


def test_three_chosen_bands_are_shown_as_rgb_and_one_as_grey() -> None:
    np.testing.assert_array_equal(shown(BANDS), BANDS[..., :3])
    np.testing.assert_array_equal(shown(BANDS, (5, 2, 1)), BANDS[..., [4, 1, 0]])
    np.testing.assert_array_equal(shown(BANDS, (4,)), BANDS[..., [3, 3, 3]])
    np.testing.assert_array_equal(shown(BANDS[..., :2]), BANDS[..., [0, 0, 0]])
    assert shown(SMOOTH) is SMOOTH
    assert checked_bands(" 3,2, 1", 4) == checked_bands((3, 2, 1), 4) == (3, 2, 1)
    assert [bands_text((3, 2, 1), 4), bands_text((), 2)] == ["bands 3, 2, 1 as red, green, blue", "band 1 as grey"]
    for given in ("", "1,2", "0,1,2", "5", "a", "1,2,3,4", "²"):
        with pytest.raises(ValueError, match=r"one band|bands 1 to 4"):
            checked_bands(given, 4)
