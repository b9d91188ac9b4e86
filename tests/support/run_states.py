"""What a run directory holds, for comparison: everything that training decides, and nothing that a clock does."""

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
    """Write the least that makes a run directory; `age` in seconds."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("seed: 1\n", encoding="utf-8")
    (path / "classes.json").write_text('["a", "b"]', encoding="utf-8")
    os.utime(path / "config.yaml", (1e9 - age, 1e9 - age))
    return path


def read_history(run: Path) -> list[dict[str, str]]:
    """Return the rows of history.csv without clock columns."""
    with (run / "history.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if not name.endswith("_seconds")} for row in rows]


def digest(run: Path) -> str:
    """Return the SHA-256 of weights, optimizer, random states, progress and history of a run, clock columns apart."""
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
    """Return how far a run has come; None before its first state is there."""
    if not has_state(run / "state"):
        return None
    return Progress.from_json(read_state(run / "state").record("progress"))


def check_whole(run: Path) -> Progress | None:
    """Check whatever a run holds at this moment, and return how far it has come.

    The state loads; the best model, where there is one, is whole, and the one for LiteRT was made from it; the history
    has whole rows of finished epochs only.
    """
    progress = progress_of(run)
    epochs = progress.epoch if progress else 0
    if (run / "best.keras").exists():
        check_model(run / "best.keras")
    elif progress is not None:  # not written yet, and made from the state
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
    """Return what runs a run directory or a model file on Keras, which has been started before."""
    from wisesr_cli.engines.keras import KerasEngine  # brings Keras, which not all who compare runs have started

    return KerasEngine(locate(run).checked, precision, image_size)
