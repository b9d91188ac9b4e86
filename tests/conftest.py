from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def caches_of_this_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test's caches apart, and out of the user's home."""
    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("WISESR_CACHE_DIR", str(folder))
    return folder
