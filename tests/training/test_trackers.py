"""Trackers record a training, offline here; a tracker that fails does not end the training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import QUICK, Answer, CommandLine, make_splits, rows_of

from wisesr_cli.api import load_config
from wisesr_cli.errors import DataError, Interrupted, MachineError
from wisesr_cli.listening import Silent
from wisesr_cli.machine.installation import install_line
from wisesr_cli.results.training import EpochResult, TrainingResult
from wisesr_cli.run.folders import Start
from wisesr_cli.run.names import CONFIG, TRACKED, TRAININGS
from wisesr_cli.run.progress import Progress
from wisesr_cli.run.run import Run
from wisesr_cli.training.trackers import table
from wisesr_cli.training.trackers.table import TrackerRow
from wisesr_cli.training.trackers.tracker import Status, TrackedRun
from wisesr_cli.training.trackers.tracking import Tracking

pytestmark = pytest.mark.usefixtures("empty_folder")

COLUMNS = {"phase", "learning_rate", "loss", "top1_accuracy", "val_loss", "val_top1_accuracy", "epoch_seconds"}
REST = {"top1_accuracy": 0.5, "epoch_seconds": 2.0}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_splits(tmp_path_factory.mktemp("photos") / "photos", train=8, validation=2)


# A tracker that records every call


@dataclass
class Told:
    """The calls received by one run of the tracker; `broken` names the method that fails."""

    run: TrackedRun
    id: str
    where: str = "here"
    broken: str = ""
    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    ends: list[Status] = field(default_factory=list)

    def _fail_if(self, name: str) -> None:
        if name == self.broken:
            raise ConnectionError(f"{name}: nobody\x1b answers")

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        self._fail_if("log")
        self.rows.append((epoch, dict(values)))

    def log_best(self, values: Mapping[str, float]) -> None:
        self._fail_if("log_best")
        self.best = dict(values)

    def keep_file(self, path: Path) -> None:
        self._fail_if("keep_file")
        self.files.append(path.name)

    def keep_model(self, path: Path) -> None:
        self.files.append(path.name)

    def end(self, status: Status) -> None:
        self._fail_if("end")
        self.ends.append(status)


class Recorder:
    """Takes the place of a tracker in the table."""

    def __init__(self) -> None:
        self.opened: list[Told] = []
        self.known: list[str | None] = []
        self.broken = ""

    def open(self, run: TrackedRun, known: str | None) -> Told:
        if self.broken == "open":
            raise ConnectionError("nobody\x1b answers")
        self.opened.append(Told(run, known or f"id-{len(self.opened)}", broken=self.broken))
        self.known.append(known)
        return self.opened[-1]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setitem(table.TRACKERS, "wandb", TrackerRow("Recorder", ("json",), recorder.open))
    return recorder


def train(wisesr: CommandLine, photos: Path, *options: str) -> Answer:
    return wisesr("train", photos, *QUICK, "--name", "a", "--tracker", "wandb", *options)


@pytest.mark.slow
def test_tracker_receives_every_epoch_once_across_a_stop_and_a_resume(
    wisesr: CommandLine, photos: Path, recorder: Recorder
) -> None:
    run = Path("runs/a")
    assert train(wisesr, photos, "--epochs", "3", "--max-steps", "2").code == 0
    first = recorder.opened[0]
    assert (first.run.name, first.run.group, first.ends) == ("a", None, ["stopped"])
    assert [epoch for epoch, _ in first.rows] == [1]
    assert first.run.settings["model.head.name"] == "wise"
    assert first.run.settings["train.trackers"] == ["wandb"]
    assert first.run.tags["classes"] == "blue, green, red"
    assert first.run.tags["backend"] == "tensorflow"
    assert "best.keras" not in first.files
    train(wisesr, photos, "--epochs", "3", "--resume", "-s", "train.track_model=true").worked()
    assert recorder.known == [None, "id-0"]
    second = recorder.opened[1]
    assert second.ends == ["finished"]
    rows = [{"epoch": float(epoch), **values} for epoch, values in first.rows + second.rows]
    assert rows == [{name: float(cell) for name, cell in row.items()} for row in rows_of(run / "history.csv")]
    assert set(rows[0]) == {"epoch", *COLUMNS}
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert second.best["top1_accuracy"] == metrics["top1_accuracy"]
    assert all(math.isfinite(value) for value in second.best.values())
    expected = {"config.yaml", "classes.json", "history.csv", "metrics.json", "learning_curves.png", "best.keras"}
    assert set(second.files) == expected
    # Nothing is left to do: no run is opened again.
    assert train(wisesr, photos, "--epochs", "3", "--resume").code == 0
    assert len(recorder.opened) == 2


def test_unusable_tracker_exits_with_5_before_anything_is_written(
    wisesr: CommandLine, photos: Path, recorder: Recorder
) -> None:
    recorder.broken = "open"
    answer = train(wisesr, photos, "--epochs", "2")
    assert answer.code == 5
    assert "Recorder cannot be used: nobody\\x1b answers; fix it, or train without the tracker wandb" in answer.error
    assert not Path("runs/a").exists()


# What drives the trackers, without a training


class Training:
    """The parts of a training that `Tracking` uses: the config, the history and the run directory."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.config = load_config(None, {"train.trackers": list(names)})
        self.distribution = SimpleNamespace(is_main=True)
        self.examples = SimpleNamespace(index=SimpleNamespace(class_names=("no", "yes")))
        self.progress = Progress(planned_epochs=3)
        self.run = Run(folder)
        self.listener = Listening()
        folder.mkdir(parents=True, exist_ok=True)

    def tracking(self, *, resumed: bool = False) -> Tracking:
        environment = {"versions": {"keras": "3"}, "backend": "jax", "device": "CPU", "threads": 2}
        return Tracking(self, Start(self.run, resumed=resumed), environment, self.listener)  # type: ignore[arg-type]

    def add_epoch(self, tracking: Tracking) -> None:
        number = self.progress.epoch + 1
        self.progress.history.append(EpochResult(number, 1, 0.1, 1 / number, 0.5, None, None, 2.0))
        tracking.report_epochs()

    def result(self) -> TrainingResult:
        return TrainingResult(str(self.run.path), tuple(self.progress.history), 1, None, 10, 1, 1, None, finished=True)


class Listening(Silent):
    """Records warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.mark.parametrize("broken", ["log", "log_best", "keep_file", "end"])
def test_failing_tracker_is_one_warning_and_receives_what_it_missed_on_resume(
    tmp_path: Path, recorder: Recorder, broken: str
) -> None:
    training = Training(tmp_path / "a", "wandb")
    (tmp_path / "a" / CONFIG).write_text("", encoding="utf-8")
    recorder.broken = broken
    with training.tracking() as tracking:
        tracking.open_runs()
        training.add_epoch(tracking)
        training.add_epoch(tracking)
        tracking.finished(training.result())
    assert training.listener.warnings == [
        f"Recorder failed: {broken}: nobody\\x1b answers; training continues without it"
    ]
    recorder.broken = ""
    with training.tracking(resumed=True) as tracking:
        tracking.open_runs()
        training.add_epoch(tracking)
        tracking.finished(training.result())
    assert recorder.known == [None, "id-0"]
    assert [epoch for told in recorder.opened for epoch, _ in told.rows] == [1, 2, 3]
    assert recorder.opened[0].rows[:1] in ([], [(1, {"phase": 1, "learning_rate": 0.1, "loss": 1.0, **REST})])
    assert (recorder.opened[-1].ends, recorder.opened[-1].best) == (["finished"], {"epoch": 1.0})


def test_unusable_tracker_is_a_warning_on_resume_or_in_a_comparison(tmp_path: Path, recorder: Recorder) -> None:
    recorder.broken = "open"
    (tmp_path / TRAININGS).write_text("{}", encoding="utf-8")
    for folder, resumed in ((tmp_path / "a", False), (tmp_path / "other" / "b", True)):
        training = Training(folder, "wandb")
        with training.tracking(resumed=resumed) as tracking:
            tracking.open_runs()
            training.add_epoch(tracking)
        expected = "Recorder cannot be used: nobody\\x1b answers; training continues without it"
        assert training.listener.warnings == [expected]
    recorder.broken = ""
    with Training(tmp_path / "c", "wandb").tracking():
        assert recorder.opened[-1].run.group == tmp_path.name


def test_unusable_tracker_ends_the_run_of_the_other_tracker_as_failed(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Recorder()
    broken.broken = "open"
    monkeypatch.setitem(table.TRACKERS, "mlflow", TrackerRow("Other", ("json",), broken.open))
    with (
        pytest.raises(MachineError, match="Other cannot be used"),
        Training(tmp_path / "a", "wandb", "mlflow").tracking(),
    ):
        pass
    assert recorder.opened[0].ends == ["failed"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DataError("NaN"), "failed"),
        (ValueError("a bug"), "failed"),
        (Interrupted("stopped", 15), "stopped"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_error_or_signal_is_reported_after_the_preceding_epochs(
    tmp_path: Path, recorder: Recorder, error: BaseException, status: str
) -> None:
    training = Training(tmp_path / "a", "wandb")

    def fail() -> None:
        with training.tracking() as tracking:
            tracking.open_runs()
            training.progress.history.append(EpochResult(1, 1, 0.1, 1.0, 0.5, None, None, 2.0))
            raise error

    with pytest.raises(type(error)):
        fail()
    assert recorder.opened[0].ends == [status]
    assert [epoch for epoch, _ in recorder.opened[0].rows] == [1]


def test_tracker_added_later_or_with_a_damaged_record_receives_all_epochs(tmp_path: Path, recorder: Recorder) -> None:
    training = Training(tmp_path / "a")
    with training.tracking() as tracking:
        tracking.open_runs()
        training.add_epoch(tracking)
    assert not (tmp_path / "a" / TRACKED).exists()
    for record in (None, "no JSON", "[1]", '{"wandb": 3}', '{"wandb": {"id": "x"}}'):
        if record is not None:
            (tmp_path / "a" / TRACKED).write_text(record, encoding="utf-8")
        later = Training(tmp_path / "a", "wandb")
        later.progress.history.extend(training.progress.history)
        with later.tracking(resumed=True) as tracking:
            tracking.open_runs()
        assert (recorder.known.pop(), [epoch for epoch, _ in recorder.opened[-1].rows]) == (None, [1])
        assert len(later.listener.warnings) == (0 if record is None else 1)


def test_only_the_main_process_tracks(tmp_path: Path, recorder: Recorder) -> None:
    training = Training(tmp_path / "a", "wandb")
    training.distribution.is_main = False
    with training.tracking() as tracking:
        tracking.open_runs()
        training.add_epoch(tracking)
        tracking.finished(training.result())
    assert recorder.opened == []
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.slow
def test_trainings_of_a_comparison_are_runs_of_one_group(wisesr: CommandLine, photos: Path, recorder: Recorder) -> None:
    words = ("compare", photos, "--heads", "gap,wise", "--seeds", "1,", *QUICK, "--epochs", "1", "--name", "both")
    assert wisesr(*words, "--tracker", "wandb").code == 0
    assert [(told.run.name, told.run.group) for told in recorder.opened] == [
        ("gap-seed1", "both"),
        ("wise-seed1", "both"),
    ]
    assert [told.ends for told in recorder.opened] == [["finished"], ["finished"]]


def test_tensorboard_receives_every_epoch_once(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    training = Training(tmp_path / "a")
    for resumed in (False, True):
        with training.tracking(resumed=resumed) as tracking:
            tracking.open_runs()
            training.add_epoch(tracking)
            training.add_epoch(tracking)
    found = event_accumulator.EventAccumulator(str(training.run.tensorboard / "train")).Reload()
    assert sorted(found.Tags()["scalars"]) == ["learning_rate", "loss", "top1_accuracy"]
    assert [(row.step, row.value) for row in found.Scalars("loss")] == [
        (epoch, pytest.approx(1 / epoch)) for epoch in (1, 2, 3, 4)
    ]
    assert [path.name for path in training.run.tensorboard.iterdir()] == ["train"]  # nothing was validated


def test_unwritable_tensorboard_logs_end_the_training_after_trackers_are_updated(
    tmp_path: Path, recorder: Recorder
) -> None:
    training = Training(tmp_path / "a", "wandb")
    training.run.tensorboard.write_text("in the way", encoding="utf-8")

    def track() -> None:
        with training.tracking() as tracking:
            tracking.open_runs()
            training.add_epoch(tracking)

    with pytest.raises(MachineError, match="tensorboard"):
        track()
    assert [epoch for epoch, _ in recorder.opened[0].rows] == [1]
    assert recorder.opened[0].ends == ["failed"]


# Errors


@pytest.mark.parametrize("words", [("train",), ("compare",)])
def test_tracker_that_is_not_installed_exits_with_5_and_the_install_command(
    wisesr: CommandLine, photos: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    for name in ("mlflow", "wandb"):
        row = table.TRACKERS[name]
        monkeypatch.setitem(table.TRACKERS, name, TrackerRow(row.title, ("no_such_package",), row.open))
        answer = wisesr(*words, photos, *QUICK, "--tracker", name)
        assert answer.code == 5
        assert answer.error.endswith(f"is not installed; install it with: {install_line(name)}")
    assert not Path("runs").exists()


def test_unknown_or_repeated_tracker_is_a_usage_error(wisesr: CommandLine, photos: Path) -> None:
    answer = wisesr("train", photos, "--tracker", "mlfow")
    assert (answer.code, answer.error) == (
        2,
        "wisesr: --tracker: train.trackers.0 is 'mlfow'; allowed: mlflow, wandb. Did you mean 'mlflow'?",
    )
    wisesr("train", photos, "--tracker", "wandb", "--tracker", "wandb").failed(2, "the same tracker is given twice")


def test_trackers_default_to_those_of_the_config(
    wisesr: CommandLine, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table.TRACKERS, "wandb", TrackerRow("Recorder", ("no_such_package",), Recorder().open))
    Path("c.yaml").write_text(f"data: {{dir: '{photos}'}}\ntrain: {{trackers: [wandb]}}\n", encoding="utf-8")
    wisesr("train", "c.yaml", *QUICK).failed(5, "Recorder is not installed")
