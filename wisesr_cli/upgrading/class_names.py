"""Chooses class names for a classifier without any: from a file, a wisesr model, the image folders, or placeholders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.errors import DataError
from wisesr_cli.machine.files import read_text
from wisesr_cli.model_files.info import PLACEHOLDER, ModelInfo
from wisesr_cli.text import counted, visible

MOST_CLASS_BYTES = 1 << 22


@dataclass(frozen=True)
class Named:
    """Class names in the order of the model's outputs, and where they come from."""

    names: tuple[str, ...]
    origin: str


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read class names, one per line, in output order; `DataError` if unreadable, or a name is empty or repeated."""
    try:
        names = read_text(path, MOST_CLASS_BYTES).removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"--classes {visible(path)}: cannot be read: {visible(error)}") from None
    names = [name.removesuffix("\r") for name in names]
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise DataError(f"--classes {visible(path)}:{number}: an empty line; give a class name on every line")
        if name in names[: number - 1]:
            raise DataError(f"--classes {visible(path)}:{number}: '{visible(name)}' is given twice")
    return tuple(names)


def choose_names(path: Path | None, info: ModelInfo | None) -> Named | None:
    """Return the class names of a file, else those of a wisesr model; None if neither has names."""
    if path is not None:
        return Named(read_class_names(path), "--classes")
    return None if info is None or not info.has_named_classes else Named(info.class_names, "the model's classes")


def choose_class_names(
    classes: int, named: Named | None, index: DatasetIndex | None, *, of_one_unit: bool = False
) -> tuple[str, ...]:
    """Return the class names in output order: those given, else the folders', else placeholders.

    `of_one_unit`: the two classes come from a single sigmoid unit. Raises `DataError` when their number differs from
    the number of outputs, or the given names are not those of the folders.
    """
    names, origin = (None, "") if named is None else (named.names, named.origin)
    folders = None if index is None else index.class_names
    for given, where in ((names, f"{origin} has"), (folders, "the image folder has")):
        if given is not None and len(given) != classes:
            raise DataError(
                f"{where} {counted(len(given), 'class', 'classes')}, but the model has {classes} outputs"
                + (" (one unit with a sigmoid: no and yes)" if of_one_unit else "")
            )
    if names is not None and folders is not None and sorted(names) != sorted(folders):
        odd = sorted(set(names) ^ set(folders))[0]
        raise DataError(f"'{visible(odd)}' is only one of {origin} and the class folders; they must be the same")
    return names or folders or tuple(PLACEHOLDER.format(number) for number in range(classes))
