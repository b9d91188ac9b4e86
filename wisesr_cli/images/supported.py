"""Supported formats, their file suffixes, and Pillow's plugins for them.

To add a format, add its row to `SUPPORTED` and its first bytes to `formats.py`.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

# Importing these registers their decoders; otherwise the first TIFF or WebP makes Pillow import every decoder.
from PIL import AvifImagePlugin, Jpeg2KImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401

# Pillow's name for each format, and its file suffixes.
SUPPORTED: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".j2c", ".jpc"),
    "HEIF": (".heic", ".heif"),  # if pillow-heif is installed
}
SHOWN_NAMES = {"WEBP": "WebP", "JPEG2000": "JPEG 2000", "HEIF": "HEIC"}

# Suffixes of unsupported formats; a file with one was probably meant to be part of the dataset.
UNREAD_SUFFIXES = frozenset(
    {
        ".arw", ".cr2", ".cr3", ".dcm", ".dicom", ".dng", ".exr", ".hdr", ".jxl", ".jxr", ".nef", ".nii", ".orf",
        ".pcx", ".psd", ".qoi", ".raf", ".raw", ".rw2", ".svg", ".tga", ".xcf",
    }
)  # fmt: skip

SUFFIXES: dict[str, str] = {suffix: name for name, suffixes in SUPPORTED.items() for suffix in suffixes}
if find_spec("pillow_heif") is None:
    UNREAD_SUFFIXES |= {suffix for suffix in SUPPORTED["HEIF"] if SUFFIXES.pop(suffix)}


@cache
def reads_heic() -> bool:
    """Register the HEIC decoder if it is installed; return whether it is."""
    if find_spec("pillow_heif") is None:
        return False
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return True
