"""Writes label files of every format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from image_folders import Data

from wisesr_cli.data.dataset import build_index
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.errors import DataError
from wisesr_cli.listening import Silent

Rows = list[tuple[Any, ...]]
OWN = ("path", "label", "split", "group", "weight")
SOME: Rows = [
    ("a.png", "cat", "train", "g1", 0.5),
    ("b.png", "3", "val", "g2", 2),
    ("c d.png", "in/out", "TEST", "g 3", 0),
]


def write_csv(path: Path, header: tuple[str, ...], rows: Rows, *, delimiter: str = ",", start: str = "") -> Path:
    quote = '"{}"'.format
    lines = [delimiter.join(quote(str(cell).replace('"', '""')) for cell in row) for row in (header, *rows)]
    path.write_text(start + "\r\n".join(lines) + "\r\n", encoding="utf-8", newline="")
    return path


def write_json(path: Path, header: tuple[str, ...], rows: Rows) -> Path:
    lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


def write_parquet(path: Path, header: tuple[str, ...], rows: Rows) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {name: [row[number] for row in rows] for number, name in enumerate(header)}
    parquet.write_table(pyarrow.table(columns), path)
    return path


WRITERS: dict[str, Callable[[Path, tuple[str, ...], Rows], Path]] = {
    "commas": lambda folder, *table: write_csv(folder / "l.csv", *table),
    "semicolons, UTF-8 mark": lambda folder, *table: write_csv(folder / "l.CSV", *table, delimiter=";", start="\ufeff"),
    "tabs": lambda folder, *table: write_csv(folder / "l.tsv", *table, delimiter="\t"),
    "JSON lines": lambda folder, *table: write_json(folder / "l.jsonl", *table),
    "Parquet": lambda folder, *table: write_parquet(folder / "l.parquet", *table),
}


def labelled(photos: Path) -> Rows:
    paths = sorted(photos.rglob("*.png"))
    return [(path.relative_to(photos).as_posix(), path.relative_to(photos).parts[0]) for path in paths]


def built(file: Path, heard: Silent | None = None, **options: Any) -> DatasetIndex:
    return build_index(Data(manifest=file, **options), seed=0, listener=heard or Silent())


def refused(file: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        built(file, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 2_000
    return message


def written(tmp_path: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    return path
