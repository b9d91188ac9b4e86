"""Pages written by a benchmark show the figures stored beside them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.heads import page as heads
from benchmarks.peers import __main__ as peers
from benchmarks.scale import page as scale
from benchmarks.speed import performance
from benchmarks.upgrade import recipes


@pytest.mark.parametrize("writer", [heads, peers, scale, performance, recipes], ids=lambda module: module.__name__)
def test_a_page_shows_the_stored_figures(writer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = writer.DOCUMENT.read_text(encoding="utf-8")
    copy = tmp_path / writer.DOCUMENT.name
    copy.write_text(before, encoding="utf-8")
    monkeypatch.setattr(writer, "DOCUMENT", copy)
    writer.write_document()
    assert copy.read_text(encoding="utf-8") == before
