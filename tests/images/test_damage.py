"""JPEG files that the library decodes with a warning: they are used, and their damage is reported."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from wisesr_cli.images.decoding import AS_STORED, decode_with_header

PICTURE = np.random.default_rng(0).integers(0, 255, (64, 80, 3)).astype(np.uint8)
KINDS: dict[str, dict[str, object]] = {
    "ordinary": {},
    "grey": {"mode": "L"},
    "progressive": {"progressive": True},
    "CMYK": {"mode": "CMYK"},
    "with a Photoshop segment": {"photoshop": True},
}


def encoded(*, mode: str = "RGB", photoshop: bool = False, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PICTURE).convert(mode).save(file, "JPEG", **options)
    content = file.getvalue()
    return content[:2] + b"\xff\xed\0\x12Photoshop 3.0\0\0\0" + content[2:] if photoshop else content


def damage(content: bytes, side: int = 16) -> str:
    return decode_with_header(content, image_size=(side, side), preparation=AS_STORED, pixel_limit=10**6)[1].damage


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [4, 16, 64])
@pytest.mark.reliability(58)
def test_damage_in_the_data_is_reported_at_every_size(kind: str, side: int) -> None:
    sound = encoded(**KINDS[kind])  # type: ignore[arg-type]
    assert damage(sound, side) == ""
    early = sound[: len(sound) * 9 // 10] + b"\xff\xd9"
    assert "premature end of data segment" in damage(early, side)
    places = range(len(sound) // 3, len(sound) - 60, len(sound) // 20)
    assert any(damage(sound[:place] + sound[place + 40 :], side) for place in places)


def test_data_after_the_picture_is_not_damage() -> None:
    assert damage(encoded() + bytes(500)) == ""
    assert damage(encoded() + encoded()) == ""


def test_other_formats_report_no_damage() -> None:
    for format_name in ("PNG", "GIF", "WEBP"):
        file = io.BytesIO()
        Image.fromarray(PICTURE).save(file, format_name)
        assert damage(file.getvalue()) == ""
