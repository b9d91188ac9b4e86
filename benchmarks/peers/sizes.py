"""What a tool takes on the disk, with all that `pip install` brings for it."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from benchmarks.pages import REPOSITORY

FOR_GPUS = ("nvidia-", "cuda-", "triton")  # how the names of distributions begin


def installed_mebibytes(name: str) -> tuple[float, float]:
    """Return the size of a distribution and of everything that it requires, without optional extras.

    The second figure leaves out those that only a GPU needs; what PyTorch itself has for GPUs is in both.
    """
    found: dict[str, Distribution] = {}
    pending, seen = [Requirement(name)], set()
    while pending:
        requirement = pending.pop()
        key = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if (key, frozenset(requirement.extras)) in seen:
            continue
        seen.add((key, frozenset(requirement.extras)))
        try:
            found[key] = distribution(key)
        except PackageNotFoundError:  # needed on another system only
            continue
        for needed in map(Requirement, found[key].requires or ()):
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                pending.append(needed)
    sizes = {key: _bytes(each) / 2**20 for key, each in found.items()}
    return sum(sizes.values()), sum(size for key, size in sizes.items() if not key.startswith(FOR_GPUS))


def _bytes(found: Distribution) -> int:
    files = [Path(str(found.locate_file(file))) for file in found.files or ()]
    if found.metadata["Name"] == "wisesr":  # it may be installed from the repository, in place
        files += (REPOSITORY / "wisesr_cli").rglob("*.py")
    return sum(path.stat().st_size for path in set(files) if path.is_file())
