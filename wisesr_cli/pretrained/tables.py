"""The table of ImageNet weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from wisesr_cli.display.grid import Grid, numbers, texts
from wisesr_cli.pretrained.records import PretrainedWeights

HEADER = tuple(field.name for field in fields(PretrainedWeights))


def weights_grid(rows: Sequence[PretrainedWeights]) -> Grid:
    """Return a row per backbone, with the file and origin of weights on this machine."""
    here = sum(row.path is not None for row in rows)
    cells = (
        (row.backbone, row.path or "-", row.origin or "", f"{row.megabytes:,.0f}", row.licence, _checksum(row))
        for row in rows
    )
    columns = (*texts("backbone", "on this machine", "origin"), *numbers("MB"), *texts("licence", "checksum"))
    return Grid("ImageNet weights", columns, tuple(cells), f"{here} of {len(rows)} backbones have weights here")


def _checksum(row: PretrainedWeights) -> str:
    return "not known" if row.checksum is None else "MD5" if len(row.checksum) == 32 else "SHA-256"
