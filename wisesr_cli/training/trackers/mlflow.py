"""A training as a run in MLflow, on the server, database or folder that MLFLOW_TRACKING_URI gives.

Only MLflow's client is used: the process gets no active run, and nothing is logged automatically.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import yaml

from wisesr_cli.errors import MachineError
from wisesr_cli.machine.installation import install_line
from wisesr_cli.run.run import litert_path
from wisesr_cli.text import typed, visible
from wisesr_cli.training.trackers.tracker import Status, TrackedRun
from wisesr_cli.version import __version__

MODEL, LOADER = "model", "wisesr_cli.prediction.pyfunc"
EXPERIMENT = "wisesr"  # unless MLFLOW_EXPERIMENT_NAME is set
MOST_PARAMETERS = 100  # in one request
LONGEST_PARAMETER, LONGEST_TAG = 6000, 5000  # characters
STATUSES: dict[Status, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow's own defaults, 7 times 120 seconds, would block training that long when a server is lost.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class MlflowTracker:
    """An open run in MLflow; see `tracker.Tracker`. `known` is the id of a run to resume; None creates one.

    Raises:
        MachineError: a package that MLflow needs for a database is missing.
        Exception: from MLflow, if there is no such run or the server does not answer.
    """

    def __init__(self, run: TrackedRun, known: str | None) -> None:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        import mlflow

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._library, self._address = mlflow, mlflow.get_tracking_uri()
        check_database(self._address)
        self._client = mlflow.MlflowClient(tracking_uri=self._address)
        self.id = self._create(run) if known is None else known
        if known is not None:
            self._client.update_run(known, status="RUNNING")
        self.where = self._where()

    def _create(self, run: TrackedRun) -> str:
        tags = {_key(name): visible(value)[:LONGEST_TAG] for name, value in run.tags.items()}
        tags["mlflow.source.name"] = "wisesr train"
        if run.group is not None:
            tags["wisesr.group"] = visible(run.group)
        name = visible(run.name if run.group is None else f"{run.group}/{run.name}")
        run_id: str = self._client.create_run(self._experiment(), run_name=name, tags=tags).info.run_id
        entity = self._library.entities.Param
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in run.settings.items()}
        parameters = (entity(_key(key), visible(text)[:LONGEST_PARAMETER]) for key, text in texts.items())
        while batch := list(islice(parameters, MOST_PARAMETERS)):
            self._client.log_batch(run_id, params=batch)
        return run_id

    def _experiment(self) -> str:
        """Return the id of the experiment, created if necessary."""
        if known := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return known
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._client.create_experiment(name))

    def _where(self) -> str:
        experiment = self._client.get_run(self.id).info.experiment_id
        if self._address.startswith("http"):
            return f"{self._address.rstrip('/')}/#/experiments/{experiment}/runs/{self.id}"
        return f"run {self.id}; to view it: mlflow ui --backend-store-uri {typed(self._address)}"

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Log numbers of an epoch, from 1."""
        now = int(time.time() * 1000)
        metrics = [self._library.entities.Metric(_key(name), value, now, epoch) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def log_best(self, values: Mapping[str, float]) -> None:
        """Log numbers of the best epoch, as `best/NAME`."""
        self.log({f"best/{name}": value for name, value in values.items()}, int(values["epoch"]))

    def keep_file(self, path: Path) -> None:
        """Upload a small file."""
        self._client.log_artifact(self.id, str(path))

    def keep_model(self, path: Path) -> None:
        """Upload the model file, with the files that let `mlflow.pyfunc.load_model` load it."""
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            for file in (path, litert_path(path)):
                if file.is_file():
                    (place / file.name).symlink_to(file.absolute())
            (place / "MLmodel").write_text(self._description(path.name), encoding="utf-8")
            (place / "requirements.txt").write_text(f"wisesr=={__version__}\n", encoding="utf-8")
            self._client.log_artifacts(self.id, str(place), artifact_path=MODEL)

    def _description(self, model: str) -> str:
        """Return the content of `MLmodel`, which declares the model as a Python function and names its loader."""
        flavor = {"data": model, "loader_module": LOADER, "python_version": platform.python_version()}
        content = {
            "artifact_path": MODEL,
            "flavors": {"python_function": flavor},
            "mlflow_version": self._library.__version__,
            "model_uuid": self.id,
            "run_id": self.id,
            "utc_time_created": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        }
        return yaml.safe_dump(content, sort_keys=True)

    def end(self, status: Status) -> None:
        """Close the run."""
        self._client.set_terminated(self.id, STATUSES[status])


def check_database(address: str) -> None:
    """Raise a `MachineError` for a database whose packages are missing: `mlflow-skinny` does not install them."""
    is_database = not re.match(r"(https?|file|databricks|uc):|databricks|/|\.", address)
    missing = [package for package in ("sqlalchemy", "alembic") if find_spec(package) is None]
    if is_database and missing:
        raise MachineError(
            f"MLflow writes to {visible(address)}, which needs {missing[0]}: {install_line('mlflow')}; or set "
            "MLFLOW_TRACKING_URI to a server"
        )


def _key(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]
