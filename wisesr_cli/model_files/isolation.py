"""Reads weights files in a separate process first, with limits on its time and memory.

Crafted files can make the HDF5 library hang or crash. Keras reads the same bytes with the same library afterwards, so a
file that can be read there can be read here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import IO

from wisesr_cli.model_files.hdf5 import Table, UnsafeFileError

SECONDS = 20  # a small file takes 0.2
BYTES_PER_SECOND = 20_000_000  # adds time for large files on a slow disk
MEMORY_BYTES = 2 << 30  # plus three times the file; libraries take most of it

_PROGRAM = """
import json, sys
seconds, memory, member = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
sys.path[:] = json.loads(sys.argv[1])
import resource
from contextlib import suppress
for limit, value in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
    with suppress(ValueError, OSError):
        resource.setrlimit(limit, (value, value))
from wisesr_cli.model_files.hdf5 import report
print(json.dumps(report(open(0, "rb"), member)))
"""


class CheckFailedError(RuntimeError):
    """The checking process itself failed, which is a bug; the file is not at fault."""


Identity = tuple[int, int, int, int, int]


def identity_of(file: int | Path) -> Identity:
    """Return the identity of a file, by path or descriptor; it changes when the file is written to."""
    status = os.stat(file)  # noqa: PTH116  (Path.stat takes no open file)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_weights_apart(file: IO[bytes], member: str = "") -> dict[str, Table]:
    """Return the result of `hdf5.check_weights` for an open file, or for a member of an archive.

    Raises:
        UnsafeFileError: the file is rejected, or reading it crashed, ran too long, or took too much memory.
        OSError: the file cannot be read.
    """
    return _check(_Opened(identity_of(file.fileno()), file), member)


@dataclass(frozen=True)
class _Opened:
    """An open file; instances for the same file state compare equal."""

    identity: Identity
    file: IO[bytes] = field(compare=False)


@lru_cache(maxsize=4)
def _check(opened: _Opened, member: str) -> dict[str, Table]:
    _, _, size, _, _ = opened.identity
    seconds, memory = SECONDS + size // BYTES_PER_SECOND, MEMORY_BYTES + 3 * size
    limits = (json.dumps([entry for entry in sys.path if entry]), str(seconds), str(memory))
    command = [sys.executable, "-I", "-c", _PROGRAM, *limits, member]
    variables = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")}  # threads take memory
    try:
        done = subprocess.run(
            command, stdin=opened.file, capture_output=True, env=variables, timeout=2 * seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise UnsafeFileError("reading it did not finish") from None
    if done.returncode < 0 or b"MemoryError" in done.stderr:
        raise UnsafeFileError("reading it crashed, did not finish, or took too much memory")
    if done.returncode:
        raise CheckFailedError(f"the check of {opened.file.name} failed: {done.stderr.decode(errors='replace')}")
    answer = json.loads(done.stdout)
    if "refused" in answer:
        raise UnsafeFileError(answer["refused"])
    return {name: Table(tuple(shape), checksum) for name, (shape, checksum) in answer["tables"].items()}
