"""A training as a run in Weights & Biases, online, or with WANDB_MODE=offline in a folder to be sent later."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wisesr_cli.errors import MachineError
from wisesr_cli.text import typed, visible
from wisesr_cli.training.trackers.tracker import Status, TrackedRun

PROJECT = "wisesr"  # unless WANDB_PROJECT is set
FOLDER = "wisesr"  # a subfolder of the run's files, as W&B has its own config.yaml
INIT_SECONDS, FINISH_SECONDS = 30.0, 120.0  # time limits for the server's answer, and for sending pending data
EXIT_CODES: dict[Status, int] = {"finished": 0, "stopped": 130, "failed": 1}
DEFAULTS = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}


class WandbTracker:
    """An open run in Weights & Biases; see `tracker.Tracker`. `known` is the id of a run to resume; None creates one.

    Raises:
        MachineError: nobody is logged in.
        Exception: from W&B, if the server does not answer.
    """

    def __init__(self, run: TrackedRun, known: str | None) -> None:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        import wandb

        self._library = wandb
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=visible(run.name),
            group=None if run.group is None else visible(run.group),
            id=known,
            resume=None if known is None else "allow",
            reinit="create_new",  # independent of a run that the user's program has open
            settings=self._settings(wandb),
        )
        self.id: str = self._run.id
        values = {**run.settings, **run.tags}
        shown = {visible(name): visible(value) if isinstance(value, str) else value for name, value in values.items()}
        self._run.config.update(shown, allow_val_change=True)
        self.where = "turned off by WANDB_MODE=disabled"
        if not self._run.disabled:
            folder = typed(self._run.settings.sync_dir)
            self.where = self._run.url or f"offline; to upload it: wandb sync {folder}"

    @staticmethod
    def _settings(wandb: Any) -> Any:
        mode = os.environ.get("WANDB_MODE", "online")
        if mode in ("online", "shared") and not wandb.login(prompt=False):  # a prompt would block the terminal
            raise MachineError("not logged in to Weights & Biases: run wandb login, or set WANDB_MODE=offline")
        return wandb.Settings(
            console="off",  # standard output is ours
            disable_git=True,
            disable_code=True,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
        )

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Log numbers of an epoch, from 1; W&B ignores an epoch that it already has."""
        self._run.log({**values, "epoch": epoch}, step=epoch)

    def log_best(self, values: Mapping[str, float]) -> None:
        """Log numbers of the best epoch, as `best/NAME` of the summary."""
        self._run.summary.update({f"best/{name}": value for name, value in values.items()})

    def keep_file(self, path: Path) -> None:
        """Upload a small file."""
        if self._run.disabled:  # it has no folder
            return
        folder = Path(self._run.dir) / FOLDER
        folder.mkdir(exist_ok=True)
        copied = shutil.copy(path, folder)
        self._run.save(copied, base_path=self._run.dir, policy="now")

    def keep_model(self, path: Path) -> None:
        """Upload the model file, as a versioned artifact."""
        artifact = self._library.Artifact(f"run-{self.id}-model", type="model")
        artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def end(self, status: Status) -> None:
        """Send pending data and close the run."""
        self._run.summary.update({"status": status})
        self._run.finish(exit_code=EXIT_CODES[status])
