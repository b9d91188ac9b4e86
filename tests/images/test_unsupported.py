"""Sound files of unsupported kinds are reported with their kind, and damaged files as damaged."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from wisesr_cli.errors import ImageError
from wisesr_cli.images.decoding import decode_image, read_header

BITS, COMPRESSION, WHITE, SAMPLES = 258, 259, 262, 277


def tiff(order: str = "<", *, is_big: bool = False, data: bytes = bytes(20_000), **changes: int) -> bytes:
    """Return a 16-bit TIFF of 20x10 pixels in one strip; `t258=8` changes a tag."""
    tags = {
        256: 20,
        257: 10,
        BITS: 16,
        COMPRESSION: 1,
        WHITE: 1,
        273: 0,
        SAMPLES: 1,
        278: 10,
        279: len(data),
    }
    tags |= {int(name[1:]): value for name, value in changes.items()}
    samples = tags[SAMPLES]
    offset = 16 if is_big else 8
    tags[273] = offset
    many = struct.pack(f"{order}{samples}H", *[tags[BITS]] * samples)
    body = data + many
    size, entry = ("Q", "HHQ8s") if is_big else ("I", "HHI4s")
    width = 8 if is_big else 4
    entries = b""
    for tag in sorted(tags):
        count = samples if tag == BITS else 1
        if tag == BITS and len(many) > width:
            value = struct.pack(order + size, offset + len(data))
        else:
            value = many if tag == BITS else struct.pack(order + ("I" if tag in (273, 279) else "H"), tags[tag])
        kind = 4 if tag in (273, 279) else 3
        entries += struct.pack(order + entry, tag, kind, count, value)
    mark = {"<": b"II", ">": b"MM"}[order]
    start = offset + len(body)
    head = struct.pack(order + "HHHQ", 43, 8, 0, start) if is_big else struct.pack(order + "HI", 42, start)
    count = struct.pack(order + ("Q" if is_big else "H"), len(tags))
    return mark + head + body + count + entries + bytes(width)


TIFFS = {
    "5 bands, which data.channels=5 reads": tiff(t277=5, t258=8),
    "200 bands, which data.channels=200 reads": tiff(t277=200, t258=8),
    "4 bands, which data.channels=4 reads": tiff(t277=4, t258=16, t262=1),
    "floats of 16 bits": tiff(t339=3),
    "floats of 64 bits": tiff(t339=3, t258=64),
    "floats of 32 bits in 3 bands": tiff(t277=3, t258=32, t339=3, t262=2),
    "complex numbers of 64 bits": tiff(t258=64, t339=6),
    "whole numbers of 10 bits": tiff(t258=10),
    "planes of 16 bits": tiff(t277=3, t284=2, t262=2),
    "compression by JPEG 2000": tiff(t259=34712, t258=8),
    "compression by LERC": tiff(t259=34887, t258=8),
    "compression by method 65000": tiff(t259=65000, t258=8),
    "white as zero in 16 bits": tiff(">", t262=0),
    "BigTIFF of big-endian numbers": tiff(">", is_big=True, t258=8),
}


@pytest.mark.reliability(55)
@pytest.mark.parametrize("kind", TIFFS)
def test_unsupported_tiff_is_reported_with_its_kind(kind: str) -> None:
    for size in ((8, 8), None):
        with pytest.raises(ImageError) as caught:
            decode_image(TIFFS[kind], image_size=size)
        assert str(caught.value) == f"a kind of TIFF that is not supported ({kind})"


def test_ordinary_tiffs_are_read() -> None:
    ramp = np.arange(200, dtype=np.uint16).reshape(10, 20) * 300
    for order in "<>":
        content = tiff(order, data=ramp.astype(f"{order}u2").tobytes())
        assert np.array_equal(decode_image(content, image_size=None)[..., 0], ramp >> 8)
        assert read_header(content).bits == 16
    assert decode_image(tiff(is_big=True, t258=8), image_size=None).max() == 0


def jpeg(marker: int, bits: int) -> bytes:
    """Return a JPEG whose header claims another kind."""
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, "JPEG")
    content = bytearray(file.getvalue())
    frame = content.index(b"\xff\xc0\0\x11")
    content[frame + 1], content[frame + 4] = marker, bits
    return bytes(content)


@pytest.mark.reliability(55)
@pytest.mark.parametrize(
    ("marker", "bits", "kind"),
    [
        (0xC1, 12, "12 bits"),
        (0xC3, 16, "lossless, 16 bits"),
        (0xC5, 8, "hierarchical"),
        (0xF7, 8, "JPEG-LS"),
        (0xCB, 8, "lossless, arithmetic coding"),
    ],
)
def test_unsupported_jpeg_is_reported_with_its_kind(marker: int, bits: int, kind: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(jpeg(marker, bits), image_size=(8, 8))
    assert str(caught.value) == f"a kind of JPEG that is not supported ({kind})"


@pytest.mark.parametrize("content", [tiff()[:30], tiff(t256=0, t258=8), jpeg(0xC0, 8)[:400]])
def test_damage_is_still_reported_as_damage(content: bytes) -> None:
    with pytest.raises(ImageError, match=r"^(truncated|damaged) (TIFF|JPEG)$"):
        decode_image(content, image_size=None)


@pytest.mark.parametrize("offset", [2**64 - 1, 2**63, 2**62, 0, 17])
def test_invalid_offset_is_reported_as_damage(offset: int) -> None:
    content = bytearray(tiff(is_big=True, t258=10))
    content[8:16] = struct.pack("<Q", offset)
    with pytest.raises(ImageError, match=r"^(truncated|damaged) TIFF$"):
        decode_image(bytes(content), image_size=None)


@pytest.mark.parametrize("start", [b"II\xbc\x01\x08\0\0\0", b"\x59\xa6\x6a\x95\0\0\0\x40"])
def test_images_of_other_formats_are_reported_as_unsupported(start: bytes) -> None:
    with pytest.raises(ImageError, match="not a supported format"):
        decode_image(start + bytes(600), image_size=None)
