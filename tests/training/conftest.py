from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_folders import make_folder
from small_trainings import CLASSES, train_on


@pytest.fixture(autouse=True)
def reset_precision() -> Iterator[None]:
    """Reset the numeric precision after each test."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {f"train/{name}": 12 for name in CLASSES} | {f"validation/{name}": 4 for name in CLASSES}
    return make_folder(tmp_path_factory.mktemp("images"), counts)


@pytest.fixture(scope="session")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run of two epochs; tests that modify it work on a copy."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WISESR_CACHE_DIR", str(folder / "caches"))
        result = train_on(images, folder, {"augment": "paper"})
    assert (result.finished, result.stopped) == (True, None)
    return folder / "run"
