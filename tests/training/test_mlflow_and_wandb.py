"""The real MLflow and Weights & Biases record a training, without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import QUICK, fresh, make_photos, rows_of

from wisesr_cli.errors import MachineError
from wisesr_cli.machine.installation import install_line
from wisesr_cli.training.trackers.tracker import TrackedRun

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail on any connection of this process to another machine."""
    connect = socket.socket.connect

    def inside(self: socket.socket, address: Any) -> Any:
        local = self.family == socket.AF_UNIX or str(address[0]) in ("127.0.0.1", "::1", "localhost")
        assert local, f"a connection to {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", inside)


SETTINGS = {"train.epochs": 2, "data.dir": None, "class (a)": [1, 2], "name": "a\udc80b", "long": "x" * 10_000}
RUN = TrackedRun("a\udc80", "group", SETTINGS, {"device": "CPU", "classes": "c" * 10_000})


def test_mlflow_records_what_is_logged(no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    from wisesr_cli.training.trackers.mlflow import MlflowTracker

    address = Path("mlruns").absolute().as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    Path("config.yaml").write_text("seed: 0\n", encoding="utf-8")
    tracker = MlflowTracker(RUN, None)
    tracker.log({"loss": 0.5, "val_loss": 0.25}, 1)
    tracker.end("stopped")
    client = mlflow.MlflowClient(tracking_uri=address)
    assert client.get_run(tracker.id).info.status == "KILLED"
    again = MlflowTracker(TrackedRun("a", "group", {"train.epochs": 3}, {}), tracker.id)
    assert (again.id, client.get_run(again.id).info.status) == (tracker.id, "RUNNING")
    again.log({"loss": 0.125}, 2)
    again.log_best({"epoch": 2.0, "top1_accuracy": 0.75})
    again.keep_file(Path("config.yaml"))
    again.keep_model(Path("config.yaml"))
    again.end("finished")
    found = client.get_run(tracker.id)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "group/a\\udc80")
    assert client.get_experiment(found.info.experiment_id).name == "wisesr"
    assert [(row.step, row.value) for row in client.get_metric_history(tracker.id, "loss")] == [(1, 0.5), (2, 0.125)]
    assert found.data.metrics["best/top1_accuracy"] == 0.75
    assert found.data.params["train.epochs"] == "2"
    assert (found.data.params["data.dir"], found.data.params["class _a_"]) == ("null", "[1, 2]")
    assert found.data.params["name"] == "a\\udc80b"
    assert found.data.tags["wisesr.group"] == "group"
    assert [item.path for item in client.list_artifacts(tracker.id)] == ["config.yaml", "model"]
    assert address in tracker.where
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_mlflow_database_without_its_packages_is_an_error_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("mlflow")
    from wisesr_cli.training.trackers import mlflow as mlflow_tracker

    monkeypatch.setattr(mlflow_tracker, "find_spec", lambda package: None)
    for address in ("sqlite:///mlflow.db", "postgresql://host/db"):
        with pytest.raises(MachineError, match=re.escape(f"needs sqlalchemy: {install_line('mlflow')}")):
            mlflow_tracker.check_database(address)
    for address in ("http://host:5000", "https://host", "file:/tmp/x", "/tmp/x", "./mlruns", "databricks"):
        mlflow_tracker.check_database(address)


def wandb_records(folder: Path) -> Iterator[Any]:
    """Yield the records of W&B's offline file: blocks of 32 KiB with chunks in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.glob("run-*.wandb")
    content, position, pending = file.read_bytes(), 7, b""  # after W&B's own header
    while position + 7 <= len(content):
        rest = 32768 - position % 32768
        if rest < 7:
            position += rest
            continue
        size = int.from_bytes(content[position + 4 : position + 6], "little")
        kind = content[position + 6]
        pending += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # a whole record, or its last part
            yield Record.FromString(pending)
            pending = b""


def test_wandb_records_what_is_logged_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    program = """
import json, sys
from pathlib import Path
from wisesr_cli.training.trackers.tracker import TrackedRun
from wisesr_cli.training.trackers.wandb import WandbTracker
Path("config.yaml").write_text("seed: 0", encoding="utf-8")
run = TrackedRun("a\\udc80", "group", {"train.epochs": 2, "name": "a\\udc80b", "sizes": [1, 2]}, {"device": "CPU"})
tracker = WandbTracker(run, None)
tracker.log({"loss": 0.5}, 1)
tracker.end("stopped")
again = WandbTracker(run, tracker.id)
again.log({"loss": 0.25}, 2)
again.log_best({"epoch": 2.0, "top1_accuracy": 0.75})
again.keep_file(Path("config.yaml"))
again.end("finished")
assert again.id == tracker.id
print(json.dumps([tracker.id, tracker.where, again.where]))
"""
    answer = fresh(cwd=tmp_path, program=("-c", program), variables={"WANDB_MODE": "offline"})
    assert (answer.code, answer.err) == (0, "")
    known, *sentences = answer.data  # there is nothing else on standard output
    folders = [Path(sentence.removeprefix("offline; to upload it: wandb sync ")) for sentence in sentences]
    first, second = (list(wandb_records(folder)) for folder in folders)
    begun = next(record.run for record in first if record.WhichOneof("record_type") == "run")
    assert (begun.run_id, begun.display_name, begun.run_group, begun.project) == (known, "a\\udc80", "group", "wisesr")
    assert history_rows(first) == [{"loss": 0.5, "epoch": 1.0, "_step": 1.0}]
    assert history_rows(second) == [{"loss": 0.25, "epoch": 2.0, "_step": 2.0}]
    config = {item.key: json.loads(item.value_json) for record in first for item in record.config.update}
    assert config["train.epochs"] == 2
    assert (config["name"], config["sizes"]) == ("a\\udc80b", [1, 2])
    summary = {
        (item.key or "/".join(item.nested_key)): json.loads(item.value_json)
        for record in second
        for item in record.summary.update
    }
    assert (summary["best/top1_accuracy"], summary["status"]) == (0.75, "finished")
    codes = [record.exit.exit_code for record in (*first, *second) if record.WhichOneof("record_type") == "exit"]
    assert codes == [130, 0]
    assert (folders[1] / "files/wisesr/config.yaml").read_text(encoding="utf-8") == "seed: 0"


def history_rows(records: list[Any]) -> list[dict[str, float]]:
    """Return the rows of the history without W&B's timestamps."""
    rows = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    return [{key: value for key, value in row.items() if key in ("loss", "epoch", "_step")} for row in rows]


def test_wandb_without_a_login_is_an_error_and_does_not_prompt(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    program = """
from wisesr_cli.errors import MachineError
from wisesr_cli.training.trackers.tracker import TrackedRun
from wisesr_cli.training.trackers.wandb import WandbTracker
try:
    WandbTracker(TrackedRun("a", None, {}, {}), None)
except MachineError as error:
    print(error)
"""
    answer = fresh(cwd=tmp_path, program=("-c", program), variables={"WANDB_MODE": "online"})
    expected = "not logged in to Weights & Biases: run wandb login, or set WANDB_MODE=offline\n"
    assert (answer.code, answer.out, answer.err) == (0, expected, "")


def test_disabled_wandb_accepts_everything_and_records_nothing(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    program = """
from pathlib import Path
from wisesr_cli.training.trackers.tracker import TrackedRun
from wisesr_cli.training.trackers.wandb import WandbTracker
tracker = WandbTracker(TrackedRun("a", None, {}, {}), None)
tracker.log({"loss": 0.5}, 1)
tracker.log_best({"epoch": 1.0})
tracker.keep_file(Path("no such file"))
tracker.end("finished")
print(tracker.where)
"""
    answer = fresh(cwd=tmp_path, program=("-c", program), variables={"WANDB_MODE": "disabled"})
    assert (answer.code, answer.out, answer.err) == (0, "turned off by WANDB_MODE=disabled\n", "")
    assert not (tmp_path / "wandb").exists()


@pytest.mark.slow
def test_training_is_recorded_by_both_trackers_across_a_resume(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    photos = make_photos(tmp_path / "photos", 4)
    address = (tmp_path / "mlruns").as_uri()
    variables = {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": address, "MLFLOW_ALLOW_FILE_STORE": "true"}
    words = ("train", photos, *QUICK, "--epochs", "2", "--name", "a", "--tracker", "mlflow", "--tracker", "wandb")
    fresh(*words, "--max-steps", "1", cwd=tmp_path, variables=variables).worked()
    answer = fresh(*words, "--resume", cwd=tmp_path, variables=variables).worked()
    assert "wandb" not in answer.out
    rows = rows_of(tmp_path / "runs/a/history.csv")
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    client = mlflow.MlflowClient(tracking_uri=address)
    (run,) = client.search_runs([client.get_experiment_by_name("wisesr").experiment_id])
    assert run.info.status == "FINISHED"
    for name in set(rows[0]) - {"epoch"}:
        told = [(row.step, row.value) for row in client.get_metric_history(run.info.run_id, name)]
        assert told == [(int(row["epoch"]), float(row[name])) for row in rows]
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    losses = [row["loss"] for folder in folders for row in history_rows(list(wandb_records(folder)))]
    assert losses == [float(row["loss"]) for row in rows]
    shutil.rmtree(tmp_path / "mlruns")
