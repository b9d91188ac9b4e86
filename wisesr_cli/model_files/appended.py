"""Appends a zip of text files to a LiteRT model, which LiteRT ignores, and reads it. No Keras."""

from __future__ import annotations

import io
import zipfile


def with_members(content: bytes, members: dict[str, str]) -> bytes:
    """Return a model with a zip of texts appended; equal texts give equal bytes."""
    tail = io.BytesIO()
    with zipfile.ZipFile(tail, "w") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return content + tail.getvalue()


def read_member(tail: bytes, name: str) -> bytes:
    """Return the only member of the zip at the end of a file; `ValueError` when it is not called `name`.

    It must be uncompressed, so it cannot be larger than the file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(tail)) as archive:
            (member,) = archive.infolist()
            if member.filename == name and member.compress_type == zipfile.ZIP_STORED:
                return archive.read(member)
    except MemoryError:
        raise
    except Exception:  # zipfile raises a dozen kinds on damaged files
        pass
    raise ValueError("no record")
