"""The zip of texts behind a model for LiteRT, which LiteRT does not look at. No Keras."""

from __future__ import annotations

import io
import zipfile


def with_members(content: bytes, members: dict[str, str]) -> bytes:
    """Return a model with a zip of texts behind it. Equal texts give equal bytes."""
    tail = io.BytesIO()
    with zipfile.ZipFile(tail, "w") as archive:
        for name, text in members.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return content + tail.getvalue()


def read_member(tail: bytes, name: str) -> bytes:
    """Return the one member of the zip at the end of a file, which is not compressed: it is no larger than the file.

    Raises:
        ValueError: there is none of that name.
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
