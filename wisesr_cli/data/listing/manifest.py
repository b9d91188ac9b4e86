"""Reads labels from a file: the class of each image and, if given, its split, group and weight.

A manifest is a table, read by `manifest_formats`. Its paths are relative to its own folder, or to `data.dir` if given.
To recognise the column name of another program, add it to `COLUMNS`.
"""

# ruff: noqa: PTH100, PTH116, PTH120  (as in folders.py)
from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from wisesr_cli.data.listing.folders import LINKED, Listing, similar_names
from wisesr_cli.data.listing.layouts import SPLITS, split_names
from wisesr_cli.data.listing.manifest_formats import MOST_ROWS, READERS, Table
from wisesr_cli.data.settings import LABEL_SEPARATOR, parse_labels
from wisesr_cli.errors import DataError
from wisesr_cli.text import counted, csv_cell, joined, parse_csv_cell, visible

# The names of each column: our own name first, which wins if several are present.
COLUMNS = {
    "path": ("path", "file_name", "filename", "file_path", "filepath", "image_path", "image", "file"),
    "label": ("label", "class", "class_name", "category"),
    "split": ("split", "subset", "partition"),
    "group": ("group",),
    "weight": ("weight", "sample_weight"),
}
EXPECTED = "Expected a table with the columns path and label, and, optionally, split, group and weight"
LONGEST_LABEL = 255  # bytes; the limit for a class folder's name
_OWN = ["path", "label", "split"]  # the columns of a run's splits.csv, whose cells are escaped
_OTHER_ROOT = "move the table to where its paths start, or name that folder: --data FOLDER (train, check), or data.dir"
_SHOWN = 5  # faults in a message
_KNOWN = frozenset(name for names in COLUMNS.values() for name in names)
_HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # the other surrogates encode bytes that are not UTF-8
_PLAIN = re.compile(r"[^./][^/]*(?:/[^./][^/]*)*+")  # a path that `normpath` leaves unchanged


class Row(NamedTuple):
    """An image of a manifest; `path` is relative to the manifest's root, missing columns are None."""

    line: int
    path: str
    label: str
    split: str | None
    group: str | None
    weight: float | None


@dataclass(frozen=True)
class Manifest:
    """The rows of a manifest, each with a unique path; `root` is the folder that contains all images."""

    file: str
    root: str
    unit: str  # name of a row in messages: `line`, or `row` if the file has no lines
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]  # columns
    separator: str | None = None  # of the names in a label, if there may be several

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that it names; none without such a column."""
        named = {row.split for row in self.rows}
        return tuple(split for split in SPLITS if split in named)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes about columns that are not used."""
        if not self.left_out:
            return ()
        names = joined(map(_short, self.left_out[:_SHOWN]))
        return (f"{counted(len(self.left_out), 'column')} of {visible(self.file)} ignored: {names}",)


@dataclass
class _Faults:
    """The number of faulty rows, and the first faults."""

    unit: str
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, line: int, fault: str) -> None:
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(f"{self.unit} {line}: {fault}")

    def refuse(self, file: str, hint: str = "") -> None:
        """Raise `DataError` if there are any."""
        if self.count:
            more = f"; and {self.count - _SHOWN:,} more" if self.count > _SHOWN else ""
            raise DataError(f"{visible(file)}: {'; '.join(self.first)}{more}{hint}")


def read_manifest(
    file: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, *, separator: str | None = None
) -> Manifest:
    """Read and check the rows of a manifest, but not whether the images exist.

    Paths are relative to `root`, by default the manifest's folder or, if all paths are absolute, the folder that
    contains all of them. With a `separator`, a label is any number of names separated by it, or a list of names.

    Raises:
        DataError: the file cannot be read, lacks a column, or has faults, each named with its line: no path or label, a
            path outside the root, a repeated path, an unknown split, a weight that is not a number.
        MachineError: the library for Parquet is not installed.
    """
    path = os.path.abspath(file)
    read = READERS.get(Path(path).suffix.lower())
    if read is None:
        raise DataError(f"{visible(path)}: a manifest ends in {joined(READERS)}. {EXPECTED}.")
    try:
        table = read(Path(path), _KNOWN)
        positions = _positions(path, table.header)
        faults = _Faults(table.unit)
        rows = list(_parsed(table, positions, faults, separator))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{visible(path)}: cannot be read as a manifest: {visible(reason)}") from None
    if not rows and not faults.count:
        raise DataError(f"{visible(path)}: no rows below the column names. {EXPECTED}.")
    where = os.path.abspath(root) if root is not None else _own_root(path, rows)
    kept = tuple(_once(_inside(where, rows, faults), faults))
    if kept and kept[0].weight is not None and not any(row.weight for row in kept):
        faults.add(kept[0].line, "no weight in the file is above 0")
    faults.refuse(path, _about_several(rows) if separator is None else "")
    known = {position for position in positions.values() if position is not None}
    left_out = tuple(name for position, name in enumerate(table.header) if position not in known)
    return Manifest(path, where, table.unit, kept, left_out, separator)


def list_manifest(manifest: Manifest, split: str) -> Listing:
    """List the images of a split like a folder of class folders; all images if the manifest names no splits.

    Raises `DataError` if none of the files exists.
    """
    listing = Listing(manifest.file)
    rows = [row for row in manifest.rows if row.split in (split, None)]
    several = manifest.separator
    listing.class_names = tuple(sorted({name for row in rows for name in _names(row.label, several)}))
    listing.problems.extend(similar_names(listing.class_names))
    labels = {name: label for label, name in enumerate(listing.class_names)}
    listing.groups = None if not rows or rows[0].group is None else []
    listing.weights = None if not rows or rows[0].weight is None else []
    listing.label_sets = None if several is None else []
    seen: set[tuple[int, int, str]] = set()
    start, missing = manifest.root.rstrip("/") + "/", 0
    for row in sorted(rows, key=lambda row: (row.label, _order(row.path))):
        path = start + row.path
        try:
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(0, "a folder, not an image")
        except OSError as error:
            is_missing = isinstance(error, FileNotFoundError)
            missing += is_missing
            reason = "no such file" if is_missing else (error.strerror or "cannot be read").lower()
            listing.unreadable.append((path, f"{reason} ({manifest.unit} {row.line} of {Path(manifest.file).name})"))
            continue
        place = status.st_dev, status.st_ino, row.label
        if place in seen:
            listing.ignored[LINKED] += 1
            continue
        seen.add(place)
        listing.paths.append(path)
        if listing.label_sets is None:
            listing.labels.append(labels[row.label])
        else:
            listing.label_sets.append(tuple(labels[name] for name in _names(row.label, several)))
        listing.stamps.add(status)
        if listing.groups is not None:
            listing.groups.append(row.group or "")
        if listing.weights is not None:
            listing.weights.append(row.weight or 0.0)
    if rows and missing == len(rows):
        line, path = min((row.line, row.path) for row in rows)
        none = "its file does not exist" if missing == 1 else f"none of its {missing:,} files exists"
        raise DataError(
            f"{visible(manifest.file)}: {none} ({manifest.unit} {line}: {_short(start + path)}). Paths are looked up "
            f"in {visible(manifest.root)}: {_OTHER_ROOT}"
        )
    return listing


def _about_several(rows: Iterable[Row]) -> str:
    """Return a hint if a label looks like several, else an empty string."""
    label = next((row.label for row in rows if LABEL_SEPARATOR in row.label), None)
    if label is None:
        return ""
    return f". If '{_short(label)}' is several labels, or images may have none: --set model.task=multilabel"


def _names(label: str, separator: str | None) -> tuple[str, ...]:
    return (label,) if separator is None else parse_labels(label, separator)


def _order(path: str) -> str:
    """Return a sort key that orders paths as folders are read: by name, files of a folder before its subfolders."""
    folder, _, name = path.rpartition("/")
    return f"{folder.replace('/', chr(1))}\0{name}"


def _positions(file: str, header: list[str]) -> dict[str, int | None]:
    """Return the position of each column, None for missing ones; raises `DataError`."""
    names = [name.strip().casefold() for name in header]
    found: dict[str, int | None] = {}
    for column, words in COLUMNS.items():
        there = [word for word in words if word in names]
        if len(there) > 1 and there[0] == column:
            there = there[:1]
        if len(there) > 1 or any(names.count(word) > 1 for word in there):
            seen = joined(header[position] for position, name in enumerate(names) if name in there)
            raise DataError(
                f"{visible(file)}: several columns may be the {column}: {seen}; rename one of them to '{column}'"
            )
        found[column] = names.index(there[0]) if there else None
    if missing := [column for column in ("path", "label") if found[column] is None]:
        known = " and ".join(f"{column} ({joined(COLUMNS[column][1:])})" for column in missing)
        seen = joined(map(_short, header[:10])) or "none"
        raise DataError(f"{visible(file)}: no column {known}; its first line names: {seen}. {EXPECTED}.")
    return found


def _parsed(table: Table, positions: dict[str, int | None], faults: _Faults, separator: str | None) -> Iterator[Row]:
    """Yield the rows without faults, with paths as written."""
    own = table.unit == "line" and [name.strip() for name in table.header[:3]] == _OWN
    taken = [(column, position) for column, position in positions.items() if position is not None]
    splits: dict[str, str | None] = {"": None}
    complete: list[Row] = []
    for number, (line, cells) in enumerate(table.rows):
        if number >= MOST_ROWS:
            raise ValueError(f"more than {MOST_ROWS:,} rows")
        if cells is None:
            faults.add(line, "a different number of cells than the first line")
            continue
        values = dict.fromkeys(COLUMNS, "")
        for column, position in taken:
            several = separator if column == "label" else None
            text = _text(cells[position]) if several is None else _label_text(cells[position], several)
            if text is None:
                faults.add(line, f"the {column} is not text")
                break
            values[column] = _unescaped(text) if own and column != "weight" else text
            if several is not None:
                values[column] = several.join(parse_labels(values[column], several))
        else:
            if values["split"] not in splits:
                splits[values["split"]] = split_names([values["split"]]).get(values["split"])
            weight = _weight(values["weight"]) if values["weight"].strip() else None
            split = splits[values["split"]]
            if fault := _fault(values, split, weight, separator):
                faults.add(line, fault)
            else:
                complete.append(Row(line, values["path"], values["label"], split, values["group"] or None, weight))
    for column in ("split", "group", "weight"):
        absent = [row.line for row in complete if getattr(row, column) is None]
        if len(absent) < len(complete):
            for line in absent:
                faults.add(line, f"no {column}, which other rows have")
    yield from complete


def _fault(values: dict[str, str], split: str | None, weight: float | None, separator: str | None) -> str | None:
    """Return what is wrong with a row, if anything."""
    for column, value in values.items():
        if "\0" in value:
            return f"a NUL character in the {column}"
        if not value.isascii() and _HALF.search(value):
            return f"half of a character (a lone surrogate) in the {column}"
    if not values["path"] or values["path"].isspace():
        return "no path"
    if separator is None and (not values["label"] or values["label"].isspace()):
        return "no label"
    if any(len(os.fsencode(name)) > LONGEST_LABEL for name in _names(values["label"], separator)):
        return f"a label of more than {LONGEST_LABEL} bytes"
    if values["split"] and split is None:
        return f"'{_short(values['split'])}' is not a split; allowed: train, validation, test"
    if weight is not None and not (math.isfinite(weight) and weight >= 0):
        return f"the weight '{_short(values['weight'])}' is not a number of at least 0"
    return None


def _inside(root: str, rows: Iterable[Row], faults: _Faults) -> Iterator[Row]:
    """Yield rows with paths relative to the root, dropping those outside of it."""
    start = root.rstrip("/") + "/"
    for row in rows:
        if _PLAIN.fullmatch(row.path):
            yield row
            continue
        whole = os.path.normpath(start + row.path if row.path[0] != "/" else row.path)
        if whole.startswith(start):
            yield Row(row.line, whole[len(start) :], *row[2:])
        else:
            faults.add(
                row.line,
                f"{_short(row.path)} is outside {visible(root)}, where paths are looked up: {_OTHER_ROOT}",
            )


def _once(rows: Iterable[Row], faults: _Faults) -> Iterator[Row]:
    """Yield the first row of every path."""
    seen: dict[str, Row] = {}
    for row in rows:
        first = seen.setdefault(row.path, row)
        if first is row:
            yield row
            continue
        other = "is already listed"
        if first.label != row.label:
            other = f"has two labels: '{visible(row.label)}', and '{visible(first.label)}'"
        elif first.split != row.split:
            other = f"is in two splits: {row.split}, and {first.split}"
        faults.add(row.line, f"{_short(row.path)} {other} in {faults.unit} {first.line}")


def _own_root(file: str, rows: Sequence[Row]) -> str:
    """Return the folder of a manifest, or the one that contains all images if their paths are absolute."""
    parent = os.path.dirname(file)
    if not rows or not all(row.path[0] == "/" for row in rows):
        return parent
    holding = os.path.commonpath({os.path.dirname(os.path.normpath(row.path)) for row in rows})
    return parent if holding == parent or holding.startswith(parent.rstrip("/") + "/") else holding


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _text(value: Any) -> str | None:
    """Return a cell as text, empty for a missing value; None for anything but text, numbers and booleans."""
    if isinstance(value, str):
        return value
    if value is None or value != value:  # NaN, how tables store a missing value
        return ""
    return json.dumps(value) if isinstance(value, bool | int | float) else None


def _label_text(value: Any, separator: str) -> str | None:
    """Return a cell of several labels as text; None for a list with anything but names."""
    if not isinstance(value, list | tuple):
        return _text(value)
    names = [_text(name) for name in value]
    if any(name is None or separator in name for name in names):
        return None
    return separator.join(name for name in names if name is not None)


def _unescaped(cell: str) -> str:
    """Unescape a cell of a run's own table; a cell that no run would write is returned unchanged."""
    if "\\" not in cell and not cell.startswith("'"):
        return cell
    text = parse_csv_cell(cell)
    return text if csv_cell(text) == cell else cell


def _short(text: str) -> str:
    return visible(text if len(text) <= 200 else f"{text[:200]}...")
