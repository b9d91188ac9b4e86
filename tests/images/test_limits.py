"""What is rejected, or decoded one at a time, because it would take too much memory or time."""

from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hostile_images import encoded
from image_references import NOISE, SMOOTH, reason, reference
from PIL import Image, ImageFile

from wisesr_cli.errors import ImageError
from wisesr_cli.images import decoding, formats
from wisesr_cli.images.decoding import decode_image, read_header
from wisesr_cli.images.supported import SUPPORTED


@contextmanager
def less_memory_than(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def test_too_many_scans_are_rejected_but_markers_in_other_data_are_not_scans() -> None:
    data = encoded(SMOOTH, "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert reason(data[:-2] + scan * 100 + data[-2:]) == "damaged JPEG: more than 100 scans"
    assert decode_image(data[:-2] + scan * 50 + data[-2:], image_size=None).shape == SMOOTH.shape
    film = b"\xff\xda" * 5000
    inside = data[:2] + b"\xff\xe5" + struct.pack(">H", 2 + len(film)) + film + data[2:]
    for whole in (data + film, inside):
        assert np.array_equal(decode_image(whole, image_size=None), reference(data))


def test_scans_are_counted_regardless_of_block_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(SMOOTH, "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    scans = data.count(b"\xff\xda")
    long = b"\xff\xe5" + struct.pack(">H", 2 + 300) + b"\xff\xda" * 150
    whole = data[:2] + long + data[2:-2] + long + scan * 7 + data[-2:] + scan * 9
    for size in range(4, 40):
        monkeypatch.setattr(formats, "_JPEG_BLOCK_BYTES", size)
        markers = list(formats.jpeg_markers(io.BytesIO(whole)))
        assert markers.count(formats.JPEG_SCAN) == scans + 7


@pytest.mark.parametrize("where", ["before the picture", "behind the picture"])
def test_jpeg_of_a_million_empty_segments_is_rejected_before_it_takes_memory(where: str) -> None:
    data, segments = encoded(SMOOTH, "JPEG"), b"\xff\xe0\0\2" * 1_000_000
    hostile = data[:2] + segments + data[2:] if where == "before the picture" else data[:-2] + segments + data[-2:]
    with less_memory_than(10_000_000):
        assert reason(hostile) == "damaged JPEG: more than 10,000 segments"
    assert decode_image(hostile.replace(segments, segments[:4000]), image_size=None).shape == SMOOTH.shape


@pytest.mark.parametrize("where", ["behind the end", "before the end"])
def test_sparse_jpeg_takes_no_memory_for_its_hole(where: str, tmp_path: Path) -> None:
    hole, scans = 200_000_000, b"\xff\xda\0\2" * 200
    data = encoded(SMOOTH, "JPEG")
    path = tmp_path / "hole.jpg"
    path.write_bytes(data if where == "behind the end" else data[:-2])
    with path.open("r+b") as file:
        file.seek(hole)
        file.write(scans)
    with less_memory_than(hole // 10):
        if where == "behind the end":
            assert np.array_equal(decode_image(path, image_size=None), reference(data))
        else:
            assert reason(path) == "damaged JPEG: more than 100 scans"


@pytest.mark.parametrize("format_name", SUPPORTED)
def test_file_over_the_file_limit_is_rejected_unread(format_name: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(encoded(SMOOTH, format_name))
    os.truncate(path, decoding.FILE_LIMIT + 1)  # sparse: it takes a few kilobytes on disk
    assert reason(path) == "over the file limit of 1 GiB"
    with pytest.raises(ImageError, match="over the file limit of 1 GiB"):
        read_header(path)


def test_large_images_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LARGE", SMOOTH.shape[0] * SMOOTH.shape[1])
    load, running, most = ImageFile.ImageFile.load, [], []

    def counting(self: ImageFile.ImageFile) -> object:
        running.append(self)
        most.append(len(running))
        time.sleep(0.01)
        try:
            return load(self)
        finally:
            running.pop()

    monkeypatch.setattr(ImageFile.ImageFile, "load", counting)
    for pixels, expected in ((SMOOTH, 1), (SMOOTH[:-1], 2)):
        most.clear()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda content: decode_image(content, image_size=None), [encoded(pixels, "BMP")] * 16))
        assert (max(most) == 1) == (expected == 1)


def test_webp_canvas_over_the_limit_is_rejected_before_its_decoder_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    lossy, lossless = encoded(SMOOTH, "WEBP"), encoded(SMOOTH, "WEBP", lossless=True)
    animated = encoded(SMOOTH, "WEBP", save_all=True, append_images=[Image.fromarray(NOISE)])
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("the decoder was started"))
    for data in (lossy, lossless, animated):
        assert "over the pixel limit of 1,000 pixels (160x120); " in reason(data, pixel_limit=1000)
