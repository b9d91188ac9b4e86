"""The contents of a run directory for comparison: everything that training determines, without measured times."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from wisesr_cli.engines.litert import read_litert
from wisesr_cli.machine.files import TEMPORARY_PREFIX
from wisesr_cli.model_files.archive import check_model
from wisesr_cli.models.image_sizes import ImageSize
from wisesr_cli.run.located import locate
from wisesr_cli.run.progress import Progress
from wisesr_cli.run.state import has_state, read_state


def make_run(path: Path, age: int = 0) -> Path:
    """Write a minimal run directory; `age` is in seconds."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("seed: 1\n", encoding="utf-8")
    (path / "classes.json").write_text('["a", "b"]', encoding="utf-8")
    os.utime(path / "config.yaml", (1e9 - age, 1e9 - age))
    return path


def read_history(run: Path) -> list[dict[str, str]]:
    """Return the rows of history.csv without measured times."""
    with (run / "history.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if not name.endswith("_seconds")} for row in rows]


def digest(run: Path) -> str:
    """Return the SHA-256 of weights, optimizer, random states, progress and history of a run, without times."""
    state = read_state(run / "state")
    everything = hashlib.sha256()
    for group in ("model", "optimizer", "random"):
        for name, array in state.group(group).items():
            everything.update(f"{group} {name} {array.dtype} {array.shape}".encode())
            everything.update(array.tobytes())
    progress: dict[str, Any] = state.record("progress")
    for row in progress["history"]:
        del row["epoch_seconds"]
    everything.update(json.dumps([progress, read_history(run)], sort_keys=True).encode())
    return everything.hexdigest()


def progress_of(run: Path) -> Progress | None:
    """Return the progress of a run; None before its first state is written."""
    if not has_state(run / "state"):
        return None
    return Progress.from_json(read_state(run / "state").record("progress"))


def check_whole(run: Path) -> Progress | None:
    """Check whatever a run contains at this moment, and return its progress.

    The state loads; the best model, if there is one, is complete, and the LiteRT model was made from it; the history
    has only complete rows of finished epochs.
    """
    progress = progress_of(run)
    epochs = progress.epoch if progress else 0
    if (run / "best.keras").exists():
        check_model(run / "best.keras")
    elif progress is not None:  # not written yet; it is made from the state
        assert progress.best_epoch in {None, progress.epoch}
    if (run / "best.tflite").exists():
        read_litert(run / "best.tflite", run / "best.keras")
    if (run / "history.csv").exists():
        rows = read_history(run)
        assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))
        assert len(rows) <= epochs
        assert all(None not in row.values() and None not in row for row in rows)
    return progress


def leftovers(run: Path) -> list[str]:
    """Return the temporary files and folders in a run."""
    return sorted(str(path.relative_to(run)) for path in run.rglob(f"{TEMPORARY_PREFIX}*"))


def load_engine(run: str | Path, precision: str = "float32", image_size: ImageSize | None = None) -> Any:
    """Return the Keras engine of a run directory or a model file; Keras must have been started."""
    from wisesr_cli.engines.keras import KerasEngine  # imports Keras, which not every user of this module has started

    return KerasEngine(locate(run).checked, precision, image_size)
