"""A thousand odd image files, always the same ones: truncated, damaged, misdeclared, misnamed, or just unusual.

`write_hostile_images` writes them; the name says how a file was made. Those whose names begin as in `SOUND` are
complete images of a supported format, which must be readable, whatever else is odd about them.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from wisesr_cli.images.supported import reads_heic

File = tuple[str, bytes]  # name, content

SIZE = (23, 17)  # width, height
FORMATS = {
    "jpg": "JPEG",
    "png": "PNG",
    "gif": "GIF",
    "bmp": "BMP",
    "tif": "TIFF",
    "webp": "WEBP",
    "ppm": "PPM",
    "avif": "AVIF",
    "jp2": "JPEG2000",
}
MODES = (
    *("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "La", "PA", "RGBX", "RGBa", "I;16"),
)
COMPRESSIONS = (
    *("group3", "group4", "tiff_ccitt", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg"),
    *("lzma", "zstd"),
)
UNSUPPORTED = ("ICO", "TGA", "PCX", "SGI", "DDS", "EPS", "ICNS", "MSP", "SPIDER", "XBM", "BLP")
ORIENTATION = 0x0112
SOUND = ("whole", "mode", "unusual")  # prefixes of names


def write_hostile_images(folder: Path) -> list[Path]:
    """Write all of them into a folder, and return their paths sorted by name."""
    folder.mkdir(parents=True, exist_ok=True)
    files = hostile_images()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in sorted(files)]


@cache
def hostile_images() -> dict[str, bytes]:
    """Return all of them, name -> content; made once per process, and not to be changed."""
    files: dict[str, bytes] = {}
    for make in MAKERS:
        for name, content in make():
            assert name not in files, name
            files[name] = content
    return files


def photo(mode: str = "RGB", size: tuple[int, int] = SIZE, seed: int = 0) -> Image.Image:
    """Return a small image of any of Pillow's modes, noise on a ramp."""
    width, height = size
    noise = np.random.default_rng(seed).integers(0, 80, (height, width, 3))
    ramp = np.linspace(0, 170, width, dtype=np.int64)[None, :, None]
    rgb = Image.fromarray((noise + ramp).astype(np.uint8))
    if mode == "I;16":
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    if mode in ("La", "RGBa"):
        return rgb.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    return Image.merge("LAB", rgb.split()) if mode == "LAB" else rgb.convert(mode)


def encoded(image: Image.Image | np.ndarray, format_name: str, **options: object) -> bytes:
    """Return an image as a file's bytes."""
    if format_name == "HEIF":
        assert reads_heic()  # registers what writes it, too
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, format_name, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def big_png(width: int, height: int, *, bits: int = 8, colour_type: int = 2, channels: int = 3) -> bytes:
    """Return a PNG of black pixels, compressed to a thousandth of their size."""
    compressor = zlib.compressobj(9)
    line = b"\0" + bytes((width * channels * bits + 7) // 8)
    body = b"".join(compressor.compress(line) for _ in range(height)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return PNG_START + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND")


def tiff(tags: list[tuple[int, int, int, int]], data: bytes = b"", *, next_directory: int = 0) -> bytes:
    """Return a little-endian TIFF with one directory; each tag is (tag, type, count, value or offset)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", next_directory) + data


def progressive_with_scans(scans: int, size: tuple[int, int] = SIZE) -> bytes:
    """Return a progressive JPEG whose last scan is repeated `scans` more times."""
    data = encoded(Image.new("L", size, 128), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * scans + data[-2:]


def rle_bmp(width: int, height: int, body: bytes) -> bytes:
    """Return a run-length encoded 8-bit BMP, black and white."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 2, 0)
    start = 14 + 40 + 8
    palette = b"\0\0\0\0\xff\xff\xff\0"
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + palette + body


def variants() -> dict[str, bytes]:
    """Return a complete image for each encoding of the supported formats, file name -> bytes."""
    found = {f"plain.{suffix}": encoded(photo(), name) for suffix, name in FORMATS.items()}
    found["progressive.jpg"] = encoded(photo(), "JPEG", progressive=True)
    found["cmyk.jpg"] = encoded(photo("CMYK"), "JPEG")
    found["lossless.webp"] = encoded(photo("RGBA"), "WEBP", lossless=True)
    found["grey.pgm"] = encoded(photo("L"), "PPM")
    found["deep.png"] = encoded(photo("I;16"), "PNG")
    found["palette.png"] = encoded(photo("P"), "PNG")
    found["palette.bmp"] = encoded(photo("P"), "BMP")
    for compression in COMPRESSIONS:
        mode = "1" if compression in ("group3", "group4", "tiff_ccitt") else "RGB"
        try:
            found[f"{compression}.tif"] = encoded(photo(mode), "TIFF", compression=compression)
        except OSError:  # this build of libtiff lacks it
            continue
    return found


def _whole() -> Iterator[File]:
    for name, content in variants().items():
        yield f"whole-{name}", content


def _cut() -> Iterator[File]:
    for name, content in variants().items():
        for percent in (1, 10, 25, 50, 75, 90, 99):
            yield f"cut-{percent:02}-{name}", content[: len(content) * percent // 100]
        yield f"cut-last-byte-{name}", content[:-1]


def _flipped() -> Iterator[File]:
    for number, (name, content) in enumerate(variants().items()):
        random = np.random.default_rng([7, number])
        for flips in (1, 1, 2, 4, 8, 16, 32, 64):
            damaged = np.frombuffer(content, np.uint8).copy()
            damaged[random.integers(0, len(damaged), flips)] ^= (1 << random.integers(0, 8, flips)).astype(np.uint8)
            yield f"flipped-{flips:02}-{random.integers(10**6):06}-{name}", damaged.tobytes()


def _overwritten() -> Iterator[File]:
    for number, (name, content) in enumerate(variants().items()):
        random = np.random.default_rng([8, number])
        for fill in (b"\0", b"\xff"):
            start = int(random.integers(12, len(content) // 2))
            length = max(1, len(content) // 8)
            kept = content[:start] + fill * length + content[start + length :]
            yield f"overwritten-{fill.hex()}-{name}", kept
        yield f"doubled-{name}", content + content
        yield f"swapped-{name}", content[: len(content) // 2] + content[: len(content) // 2]


def _modes() -> Iterator[File]:
    for mode in MODES:
        for suffix, name in FORMATS.items():
            try:
                content = encoded(photo(mode), name)
            except (OSError, ValueError, KeyError):  # the format cannot hold it
                continue
            kind = "unsupported" if (mode, name) == ("F", "PPM") else "mode"  # actually a PFM
            yield f"{kind}-{mode.replace(';', '')}.{suffix}", content


def _misnamed() -> Iterator[File]:
    for suffix, name in FORMATS.items():
        for wrong in FORMATS:
            if wrong != suffix:
                yield f"whole-{suffix}-named.{wrong}", encoded(photo(seed=3), name)


def _no_images() -> Iterator[File]:
    contents = {
        "text": b"Just some text.\n" * 50,
        "empty": b"",
        "zeros": bytes(5000),
        "noise": np.random.default_rng(4).bytes(5000),
        "json": b'{"image": null}',
        "html": b"<!DOCTYPE html><html><body></body></html>",
        "pdf": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "zip": b"PK\x03\x04" + bytes(100),
        "program": b"\x7fELF" + bytes(100),
        "line feed": b"\n",
    }
    for name, content in contents.items():
        for suffix in FORMATS:
            yield f"no-image-{name}.{suffix}", content
    for name, content in variants().items():
        for length in (2, 8, 30):
            yield f"cut-bytes-{length:02}-{name}", content[:length]


def _unsupported() -> Iterator[File]:
    image = photo(size=(64, 64))
    for name in UNSUPPORTED:
        mode = {"MSP": "1", "XBM": "1", "SPIDER": "F", "BLP": "P"}.get(name, "RGB")
        try:
            content = encoded(image.convert(mode), name)
        except (OSError, KeyError, ValueError):  # this build of Pillow lacks it
            continue
        for suffix in ("jpg", "png", "tif"):
            yield f"unsupported-{name}.{suffix}", content


def _bombs() -> Iterator[File]:
    yield "bomb-196-megapixels.png", big_png(14000, 14000)
    yield "bomb-wide.png", big_png(4_000_000, 1, colour_type=0, channels=1)
    yield "bomb-tall.png", big_png(1, 4_000_000, colour_type=0, channels=1)
    for side in (2**31 - 1, 2**32 - 1, 100_001, 0):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        yield f"bomb-header-{side}.png", PNG_START + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND")
        yield f"bomb-header-{side}.ppm", b"P6 %d %d 255\n" % (side, side) + bytes(100)
        yield f"bomb-header-{side}.pgm", b"P2 %d %d 255\n" % (side, side) + b"1 " * 100
        yield f"bomb-header-{side}.tif", tiff([(256, 4, 1, side), (257, 4, 1, side), *GREY_TAGS], bytes(100))
        signed = side if side < 2**31 else -1
        yield f"bomb-header-{side}.bmp", rle_bmp(signed, signed, bytes(100))
    for suffix, name in (("jpg", "JPEG"), ("gif", "GIF"), ("webp", "WEBP")):
        content = bytearray(encoded(photo(), name))
        where = {"JPEG": content.find(b"\xff\xc0") + 5, "GIF": 6, "WEBP": 26}[name]
        content[where : where + 4] = b"\xff" * 4
        yield f"bomb-header.{suffix}", bytes(content)
    yield "bomb-skips.bmp", rle_bmp(30_000, 3_000, b"\0\2\xff\xff" * 2000)
    yield "bomb-scans.jpg", progressive_with_scans(5000)
    yield "bomb-comments.ppm", b"P3 1000 100 255\n" + b"#\n" * 200_000 + b"1 " * 1000
    yield "bomb-text.png", with_chunks(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000), 9)) * 100)
    overlapping = [(1000 + number, 3, 10_000, 8) for number in range(20_000)]
    yield "bomb-tags.tif", tiff([(256, 4, 1, 4), (257, 4, 1, 4), *GREY_TAGS, *overlapping], bytes(100))
    yield "bomb-loop.tif", tiff([(256, 4, 1, 4), (257, 4, 1, 4), *GREY_TAGS], bytes(100), next_directory=8)
    yield "bomb-samples.tif", tiff([(256, 4, 1, 4), (257, 4, 1, 4), *GREY_TAGS, (277, 4, 1, 2**32 - 1)], bytes(100))


def with_chunks(*chunks: bytes) -> bytes:
    """Return a PNG with additional chunks after the header."""
    content = encoded(photo(), "PNG")
    return content[:33] + b"".join(chunks) + content[33:]


def _odd_parts() -> Iterator[File]:
    png_end = len(encoded(photo(), "PNG")) - 12
    chunks = {
        "empty-text": chunk(b"tEXt"),
        "bad-gamma": chunk(b"gAMA", b"\0"),
        "bad-icc": chunk(b"iCCP", b"icc\0\0not a profile"),
        "bad-exif": chunk(b"eXIf", b"MM\0*" + b"\xff" * 40),
        "unknown": chunk(b"abCd", b"x" * 100),
        "thousands": chunk(b"abCd") * 5000,
        "frames": chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
        "no-frames": chunk(b"acTL", bytes(8)),
        "wrong-sum": b"\0\0\0\1abCdx\0\0\0\0",
        "long": struct.pack(">I", 2**31 - 1) + b"abCd",
        "second-header": chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 5, 8, 2, 0, 0, 0)),
        "critical": chunk(b"ABCD", b"x"),
    }
    for name, body in chunks.items():
        yield f"odd-chunk-{name}.png", with_chunks(body)
        content = encoded(photo(), "PNG")
        yield f"odd-chunk-late-{name}.png", content[:png_end] + body + content[png_end:]
    for suffix, name in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("tif", "TIFF")):
        for number, exif in enumerate((b"Exif\0\0", b"Exif\0\0II", b"Exif\0\0" + b"\xff" * 40, ENDLESS_EXIF)):
            if name != "TIFF":
                yield f"odd-exif-{number}.{suffix}", encoded(photo(), name, exif=exif)
        yield f"odd-icc.{suffix}", encoded(photo(), name, icc_profile=b"not a profile at all")
    jpeg = encoded(photo(), "JPEG")
    segments = {
        "no-tables": jpeg.replace(b"\xff\xdb", b"\xff\xe5"),
        "no-huffman": jpeg.replace(b"\xff\xc4", b"\xff\xe5"),
        "no-frame": jpeg.replace(b"\xff\xc0", b"\xff\xe5"),
        "no-scan": jpeg.replace(b"\xff\xda", b"\xff\xe5"),
        "two-starts": jpeg[:2] + jpeg,
        "lossless": jpeg.replace(b"\xff\xc0", b"\xff\xc3"),
        "arithmetic": jpeg.replace(b"\xff\xc0", b"\xff\xc9"),
        "hierarchical": jpeg.replace(b"\xff\xc0", b"\xff\xde"),
        "short-segment": jpeg[:2] + b"\xff\xe1\0\0" + jpeg[2:],
        "long-segment": jpeg[:2] + b"\xff\xe1\xff\xff" + jpeg[2:],
        "bad-marker": jpeg[:2] + b"\xff\x02\0\x04xx" + jpeg[2:],
        "adobe": jpeg[:2] + b"\xff\xee\0\x0eAdobe\0\0\0\0\0\0\xff" + jpeg[2:],
        "early-end": jpeg[: jpeg.index(b"\xff\xda") + 30] + b"\xff\xd9",
        "restarts": jpeg[:-2] + b"\xff\xd0\xff\xd5" * 20 + jpeg[-2:],
        "views": jpeg[:2] + b"\xff\xe2\0\x0aMPF\0II*\0" + jpeg[2:],
    }
    for name, content in segments.items():
        yield f"odd-segment-{name}.jpg", content


def _odd_tiffs() -> Iterator[File]:
    for number, (name, content) in enumerate(variants().items()):
        if name.endswith(".tif") and name != "plain.tif":
            random = np.random.default_rng([9, number])
            for attempt in range(12):  # in the picture data, which a separate C library decodes
                damaged = bytearray(content)
                for position in random.integers(8, max(9, len(content) // 2), 5):
                    damaged[position] = random.integers(0, 256)
                yield f"odd-tiff-data-{attempt}-{name}", bytes(damaged)
    for code in (0, 2, 3, 4, 5, 6, 7, 8, 9, 99, 32766, 32773, 32809, 34661, 34887, 34925, 50000, 50001, 65535):
        tags = [(256, 4, 1, 9), (257, 4, 1, 9), *GREY_TAGS]
        yield (
            f"odd-compression-{code}.tif",
            tiff([(t, k, c, code if t == 259 else v) for t, k, c, v in tags], bytes(99)),
        )
    yield "odd-strips-missing.tif", tiff([(256, 4, 1, 9), (257, 4, 1, 9), *GREY_TAGS, (278, 4, 1, 1)], bytes(99))
    yield "odd-tiles-missing.tif", tiff([(256, 4, 1, 99), (257, 4, 1, 99), *GREY_TAGS[:-2], *TILE_TAGS], bytes(999))


def _unusual() -> Iterator[File]:
    for width, height in ((1, 1), (1, 300), (300, 1), (2, 2), (1, 20_000), (20_000, 1)):
        for suffix, name in FORMATS.items():
            if name != "WEBP" or max(width, height) < 16384:
                yield f"unusual-{width}x{height}.{suffix}", encoded(photo(size=(width, height)), name)
    frames = [photo(seed=seed) for seed in range(4)]
    for suffix, name in (("gif", "GIF"), ("png", "PNG"), ("webp", "WEBP"), ("tif", "TIFF")):
        yield f"unusual-frames.{suffix}", encoded(frames[0], name, save_all=True, append_images=frames[1:])
    for orientation in range(10):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        for suffix, name in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("tif", "TIFF")):
            yield f"unusual-turned-{orientation}.{suffix}", encoded(photo(), name, exif=exif)
    for name, content in variants().items():
        yield f"unusual-more-behind-{name}", content + bytes(1000)


PNG_START = b"\x89PNG\r\n\x1a\n"
ENDLESS_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" * 3
GREY_TAGS = [(258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 81)]
TILE_TAGS = [(322, 3, 1, 16), (323, 3, 1, 16), (324, 4, 1, 8), (325, 4, 1, 256)]

MAKERS: tuple[Callable[[], Iterator[File]], ...] = (
    _whole,
    _cut,
    _flipped,
    _overwritten,
    _modes,
    _misnamed,
    _no_images,
    _unsupported,
    _bombs,
    _odd_parts,
    _odd_tiffs,
    _unusual,
)
