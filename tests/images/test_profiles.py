"""Colours with an ICC profile are converted to sRGB if the model was trained that way."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms

from wisesr_cli.images.decoding import decode_image, decode_with_header
from wisesr_cli.images.preparation import Color, Preparation

RAMP = np.stack(np.meshgrid(np.linspace(0, 255, 24), np.linspace(0, 255, 32), indexing="xy"), axis=-1)
PICTURE = np.dstack([RAMP, 255 - RAMP[..., 0]]).astype(np.uint8)  # (32, 24, 3)


def profile(*, gamma: float = 2.2, wide: bool = True, space: bytes = b"RGB ") -> bytes:
    """Return a profile like those of cameras: primaries, or grey, and one gamma; `wide` selects those of Display P3."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    primaries = (
        ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
        if wide
        else ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
    )
    tags = {b"wtpt": xyz(0.9642, 1.0, 0.8249)}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        for name, values in zip(b"rgb", primaries, strict=True):
            tags[bytes([name]) + b"XYZ"] = xyz(*values)
            tags[bytes([name]) + b"TRC"] = curve
    return with_header(b"mntr", space, b"XYZ ", tags)


def cmyk_profile() -> bytes:
    """Return a profile of a printer: a table from the corners of CMYK to Lab, with paper that is not white."""
    corners = np.indices((2, 2, 2, 2)).reshape(4, 16).T  # (16, CMYK), as the table is stored
    c, m, y, k = corners.T
    lab = np.stack([92 * (1 - k) * (1 - 0.2 * (c + m + y)), 50 * (m - c) * (1 - k), 60 * y * (1 - k) - 10], axis=1)
    table = np.rint(lab * (2.55, 1, 1) + (0, 128, 128)).astype(np.uint8).tobytes()
    identity = b"".join(struct.pack(">i", 65536 * (row == column)) for row in range(3) for column in range(3))
    ramp = bytes(range(256))
    return with_header(
        *(b"prtr", b"CMYK", b"Lab "),
        {b"A2B0": b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + 4 * ramp + table + 3 * ramp},
    )


def with_header(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    position, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        table += name + struct.pack(">II", position + len(body), len(content))
        body += content
    size = position + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, kind, space, connection) + bytes(12) + b"acsp"
    return head.ljust(68, b"\0") + struct.pack(">iii", 63190, 65536, 54061) + bytes(48) + table + body


def encoded(format_name: str, icc: bytes | None, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    lossless = {"quality": 100, "subsampling": 0} if format_name == "JPEG" else {}
    if format_name == "WEBP":
        lossless = {"lossless": True}
    Image.fromarray(PICTURE).convert(mode).save(file, format_name, icc_profile=icc, **lossless)
    return file.getvalue()


def decoded(data: bytes, color: Color, size: tuple[int, int] | None = None) -> np.ndarray:
    return decode_image(data, image_size=size, preparation=Preparation(color=color)).astype(int)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.reliability(57)
def test_colours_match_littlecms(format_name: str) -> None:
    plain, wide = encoded(format_name, None), encoded(format_name, profile())
    as_is = decoded(wide, "as_is")
    assert np.array_equal(as_is, decoded(plain, "as_is"))
    assert np.array_equal(decoded(plain, "srgb"), as_is)
    reference = ImageCms.profileToProfile(
        Image.fromarray(as_is.astype(np.uint8)),
        ImageCms.ImageCmsProfile(io.BytesIO(profile())),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert np.array_equal(decoded(wide, "srgb"), np.asarray(reference))
    assert np.abs(decoded(wide, "srgb") - as_is).max() > 20
    assert np.abs(decoded(wide, "srgb", (16, 12)) - decoded(plain, "srgb", (16, 12))).max() > 10


def test_srgb_profile_changes_no_pixel() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for format_name in ("JPEG", "PNG"):
        data = encoded(format_name, srgb)
        assert np.array_equal(decoded(data, "srgb"), decoded(data, "as_is"))


def test_both_paths_of_reading_a_jpeg_yield_the_same_colours() -> None:
    data = encoded("JPEG", profile())
    other = data[:2] + b"\xff\xed\0\x12Photoshop 3.0\0\0\0" + data[2:]  # takes it off the fast path
    for size in (None, (9, 13)):
        assert np.array_equal(decoded(data, "srgb", size), decoded(other, "srgb", size))


@pytest.mark.parametrize("space", [b"GRAY", b"RGB "])
def test_grey_images_are_converted_only_by_grey_profiles(space: bytes) -> None:
    for format_name in ("JPEG", "PNG"):
        data = encoded(format_name, profile(gamma=1.0, space=space), "L")
        changed = np.abs(decoded(data, "srgb") - decoded(data, "as_is")).max()
        assert changed > 50 if space == b"GRAY" else changed == 0
        assert (np.ptp(decoded(data, "srgb"), axis=-1) == 0).all()


def test_a_large_profile_in_several_segments_is_joined() -> None:
    large = profile() + bytes(200_000)
    large = struct.pack(">I", len(large)) + large[4:]
    data = encoded("JPEG", large)
    assert np.array_equal(decoded(data, "srgb"), decoded(encoded("JPEG", profile()), "srgb"))


@pytest.mark.reliability(57)
def test_damaged_profile_is_ignored(seen: Callable[[str], None]) -> None:
    whole = profile()
    rng = np.random.default_rng(0)
    tried = 0
    for position in range(0, len(whole), 7):
        for changed in (whole[:position], whole[:position] + rng.bytes(9) + whole[position + 9 :]):
            tried += 1
            for format_name in ("JPEG", "PNG"):
                pixels, _ = decode_with_header(
                    encoded(format_name, changed or b"x"),
                    image_size=(8, 8),
                    preparation=Preparation(color="srgb"),
                    pixel_limit=10**6,
                )
                assert pixels.shape == (8, 8, 3)
    seen(f"{tried} damaged profiles")


def test_cmyk_image_ignores_a_profile_of_another_colour_space() -> None:
    data = encoded("JPEG", profile(), "CMYK")  # an RGB profile
    assert np.array_equal(decoded(data, "srgb"), decoded(data, "as_is"))


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
def test_cmyk_image_is_converted_by_its_own_profile(format_name: str) -> None:
    data = encoded(format_name, cmyk_profile(), "CMYK")
    reference = ImageCms.profileToProfile(
        Image.open(io.BytesIO(data)),
        ImageCms.ImageCmsProfile(io.BytesIO(cmyk_profile())),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert np.array_equal(decoded(data, "srgb"), np.asarray(reference))
    assert np.abs(decoded(data, "srgb") - decoded(data, "as_is")).mean() > 5
