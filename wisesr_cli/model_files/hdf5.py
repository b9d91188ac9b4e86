"""Checks that a weights file contains only what Keras writes: plain tables of numbers, stored in the file. No Keras.

HDF5 also allows links to other files, external data, compression and shapes of any size. Weights need none of these, so
all are rejected. `isolation` runs this in a separate process.
"""

from __future__ import annotations

import errno
import io
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import h5py
import numpy as np
import numpy.typing as npt

from wisesr_cli.text import on_one_line

MOST_OBJECTS = 100_000  # groups and tables; the largest backbone has about 3,000
MOST_ATTRIBUTE_BYTES = 1 << 20  # the older format stores all layer names in one
LARGE_BYTES = 1 << 26
MOST_PATH = 1000  # characters; real ones have 100


@dataclass(frozen=True)
class Table:
    """The shape of a table, and a checksum of its values that does not depend on their stored type."""

    shape: tuple[int, ...]
    checksum: int


def table_of(values: npt.NDArray[Any]) -> Table:
    """Return the `Table` that describes values."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        wide = values.astype("float64") if values.dtype.kind in "fiub" else values
    return Table(values.shape, zlib.crc32(np.ascontiguousarray(wide).data))


class UnsafeFileError(ValueError):
    """A file contains something that does not belong in a weights file."""


def report(file: IO[bytes], member: str) -> dict[str, Any]:
    """Return the result of `check_weights` for a file, or a member of an archive, as plain values."""
    try:
        _check_holes(file)
        if member:
            with zipfile.ZipFile(file) as archive:
                content = archive.read(member)
        else:
            content = file.read()
        tables = check_weights(io.BytesIO(content))
    except (UnsafeFileError, zipfile.BadZipFile, zlib.error, EOFError, MemoryError, NotImplementedError) as error:
        return {"refused": str(error) or type(error).__name__}
    return {"tables": {name: (table.shape, table.checksum) for name, table in tables.items()}}


def _check_holes(file: IO[bytes]) -> None:
    """Reject a large sparse file, because the memory limit grows with the file's size."""
    size = file.seek(0, os.SEEK_END)
    data = position = 0
    try:
        while size > LARGE_BYTES and position < size:
            start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            data += position - start
    except OSError as error:
        if error.errno != errno.ENXIO:  # the system cannot tell; ENXIO means that only a hole follows
            data = size
    if size > LARGE_BYTES and 2 * data < size:
        raise UnsafeFileError(f"most of its {size:,} bytes are holes")
    file.seek(0)


def check_weights(file: IO[bytes]) -> dict[str, Table]:
    """Return every table of a weights file, by path.

    Raises `UnsafeFileError`, with the bare reason, when it is not HDF5, damaged, or not only tables of numbers.
    """
    size = file.seek(0, 2)
    try:
        with h5py.File(file, "r") as root:
            tables, stored = {}, 0
            for path, table in _walk(root):
                stored += _stored_bytes(path, table)
                if stored > size:
                    raise UnsafeFileError("its tables are larger than the file")
                tables[path] = table_of(table[()])
            return tables
    except UnsafeFileError:
        raise
    except Exception as error:  # HDF5 raises exceptions of any type on a damaged file
        raise UnsafeFileError(f"damaged: {on_one_line(error)}") from error


def _walk(root: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield every table below `root` with its path, checking links and attributes on the way."""
    seen: set[int] = set()
    count = 0
    pending: list[h5py.Group] = [root]
    while pending:
        group = pending.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            raise UnsafeFileError(f"the group {group.name} is linked twice")
        seen.add(address)
        _check_attributes(group)
        for name in group:
            count += 1
            if count > MOST_OBJECTS:
                raise UnsafeFileError(f"more than {MOST_OBJECTS:,} groups and tables")
            path = f"{group.name.rstrip('/')}/{name}"
            if len(path) > MOST_PATH:
                raise UnsafeFileError(f"a path of more than {MOST_PATH} characters")
            link = group.get(name, getclass=True, getlink=True)
            if link is not h5py.HardLink:
                raise UnsafeFileError(f"{path} is a link of the kind {link.__name__}")
            found = group[name]
            if isinstance(found, h5py.Group):
                pending.append(found)
            elif isinstance(found, h5py.Dataset):
                _check_attributes(found)
                yield path, found
            else:
                raise UnsafeFileError(f"{path} is neither a group nor a table")


def _check_attributes(found: h5py.Group | h5py.Dataset) -> None:
    for name in found.attrs:
        attribute = h5py.h5a.open(found.id, name.encode())
        if math.prod(attribute.shape) * attribute.dtype.itemsize > MOST_ATTRIBUTE_BYTES:
            raise UnsafeFileError(f"the attribute {name} of {found.name} is too large")
        found.attrs[name]  # so that unreadable values fail here, not in Keras


def _stored_bytes(path: str, table: h5py.Dataset) -> int:
    """Check that a table is contiguous plain numbers; return how many bytes it takes in the file."""
    if table.external or table.is_virtual:
        raise UnsafeFileError(f"{path} is in another file")
    if table.shape is None:
        raise UnsafeFileError(f"{path} has no shape")
    if table.dtype.kind not in "fiub" and not _is_bfloat16(table):
        raise UnsafeFileError(f"{path} holds no numbers")
    if table.chunks is not None or table.id.get_create_plist().get_nfilters():
        raise UnsafeFileError(f"{path} is chunked or compressed; save the weights again with Keras, which does neither")
    declared = math.prod(table.shape) * table.dtype.itemsize
    if declared != table.id.get_storage_size():
        raise UnsafeFileError(f"{path} declares {declared:,} bytes, but {table.id.get_storage_size():,} are there")
    return int(declared)


def _is_bfloat16(table: h5py.Dataset) -> bool:
    """Return whether a table is in Keras' format for bfloat16, which HDF5 does not have."""
    return bool(table.dtype.kind == "V" and table.dtype.itemsize == 2 and table.attrs.get("dtype") == "bfloat16")
