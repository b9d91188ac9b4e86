"""Training on several devices or processes matches training on one device, with the same weights on all of them."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CLASSES, CommandLine, environment, make_photos
from numpy.typing import NDArray
from run_states import read_history
from served import free_port

# Several devices sum over a batch in another order, which changes the last bits: about 1e-7 of the largest weights
# here, and three epochs amplify that less than tenfold.
TOLERANCE = 2e-6
STEPS_PER_EPOCH = 4  # 29 images in batches of 8: the last one has 5, which neither 2 nor 4 devices can share evenly
EPOCHS = 2

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Trained:
    """A run directory, and the final weights on each device of each process."""

    run: Path
    devices: list[Weights]

    @property
    def history(self) -> list[dict[str, float]]:
        """The rows of history.csv, as numbers."""
        return [{name: float(value) for name, value in row.items()} for row in read_history(self.run)]


class Folder:
    """Images, and the runs trained on them."""

    def __init__(self, path: Path) -> None:
        self.path, self.photos = path, path / "photos"
        for name, (train, validation) in zip(CLASSES, ((10, 4), (10, 4), (9, 3)), strict=True):
            make_photos(self.photos / "train", train, classes=(name,))
            make_photos(self.photos / "validation", validation, classes=(name,), first_seed=100)

    def command(self, run: str, *more: object, backend: str) -> list[str]:
        """Return the command line of a training that stops before its last epoch, so that no model is converted."""
        settings = {
            "train.optimizer.name": "sgd",
            "train.class_weights": "balanced",
            "augment": "none",
            # With TensorFlow, each device draws random numbers for its own images; JAX draws them for the whole batch.
            "model.head.dropout": 0.2 if backend == "jax" else 0.0,
        }
        words = ["train", self.photos, "--backbone", "compact_small", "--image-size", 32, "-b", 8, "--lr", 0.05]
        words += ["--epochs", EPOCHS + 1, "--max-steps", EPOCHS * STEPS_PER_EPOCH, "--device", "cpu", "-q"]
        words += ["-o", self.path / "runs", "--name", run]
        words += [word for name, value in settings.items() for word in ("-s", f"{name}={value}")]
        return [str(word) for word in (*words, *more)]

    def alone(self, backend: str) -> list[str]:
        """Return the command line of the reference training on one device."""
        return self.command(f"{backend}-alone", "-s", "distribute.strategy=none", backend=backend)

    def start(self, jobs: list[tuple[str, list[str]]], backend: str) -> subprocess.Popen[str]:
        """Start a process that runs the trainings one after another."""
        files = [[str(self.path / f"{name}.npz"), words] for name, words in jobs]
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("shared_training.py")), json.dumps(files)],
            env={**environment(self.path), "KERAS_BACKEND": backend},
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def trained(self, run: str, *files: str) -> Trained:
        """Return the results of a training; `files` has one name per process, by default only that of the run."""
        devices: list[Weights] = []
        for file in files or (run,):
            with np.load(self.path / f"{file}.npz") as arrays:
                found: dict[str, Weights] = {}
                for name in arrays.files:
                    device, _, weight = name.partition(" ")
                    found.setdefault(device, {})[weight] = arrays[name]
            devices += found.values()
        return Trained(self.path / "runs" / run, devices)


def finish(*processes: subprocess.Popen[str]) -> None:
    """Wait for the processes and check that all of them succeeded."""
    try:
        answers = [process.communicate(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, err) in zip(processes, answers, strict=True):
        assert process.returncode == 0, err[-3000:]


def shared(devices: int) -> tuple[str, ...]:
    return "-s", "distribute.strategy=data_parallel", "-s", f"distribute.devices={devices}"


def train_on_devices(folder: Folder, backend: str, devices: int, *more: tuple[str, list[str]]) -> Trained:
    """Train on several virtual devices, on one, and as `more` says, all in a single process."""
    name, alone = f"{backend}-{devices}-devices", f"{backend}-alone"
    jobs = [(name, folder.command(name, *shared(devices), backend=backend)), (alone, folder.alone(backend)), *more]
    finish(folder.start(jobs, backend))
    return folder.trained(name)


def train_in_processes(folder: Folder, processes: int, devices: int = 1) -> Trained:
    """Train in several processes started by plain commands, and alongside in one process on one device."""
    run = f"jax-{processes}-processes"
    files = [f"{run}-{number}" for number in range(processes)]
    others = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", processes, "--process-id")
    each = shared(devices) if devices > 1 else ()
    finish(
        *(
            folder.start([(file, folder.command(run, *each, *others, number, backend="jax"))], "jax")
            for number, file in enumerate(files)
        ),
        folder.start([("jax-alone", folder.alone("jax"))], "jax"),
    )
    return folder.trained(run, *files)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def check_equal(shared: Trained, alone: Trained, *, devices: int) -> None:
    """Check that weights are bit-identical on all devices, and equal to those of one device up to rounding."""
    first, *others = shared.devices
    assert len(shared.devices) == devices
    for other in others:
        assert other.keys() == first.keys()
        assert all(np.array_equal(other[name], first[name]) for name in first)
    [expected] = alone.devices
    assert first.keys() == expected.keys()
    assert any("moving_variance" in name for name in first)
    for name, weights in first.items():
        np.testing.assert_allclose(weights, expected[name], atol=TOLERANCE, rtol=TOLERANCE, err_msg=name)
    check_same_history(shared, alone)


def check_same_history(one: Trained, other: Trained) -> None:
    """Check that the loss and the metrics of every epoch are equal up to rounding."""
    assert len(one.history) == len(other.history) == EPOCHS
    for row, expected in zip(one.history, other.history, strict=True):
        assert row == pytest.approx(expected, rel=1e-5)


def check_saved(trained: Trained) -> None:
    """Check that the saved model, alone on one device, has the metrics that training reported for its best epoch."""
    metrics: dict[str, Any] = json.loads((trained.run / "metrics.json").read_text(encoding="utf-8"))
    best = max(trained.history, key=lambda row: (row["val_top1_accuracy"], -row["val_loss"]))
    assert metrics["top1_accuracy"] == pytest.approx(best["val_top1_accuracy"])
    assert metrics["log_loss"] == pytest.approx(best["val_loss"], rel=1e-5)
    with zipfile.ZipFile(trained.run / "best.keras") as archive:
        assert '"synchronized": true' not in archive.read("config.json").decode()


@pytest.mark.slow
def test_two_tensorflow_devices_match_one(folder: Folder) -> None:
    trained = train_on_devices(folder, "tensorflow", 2)
    check_equal(trained, folder.trained("tensorflow-alone"), devices=2)
    check_saved(trained)


@pytest.mark.slow
def test_two_jax_processes_match_one_device(folder: Folder) -> None:
    pytest.importorskip("jax")
    trained = train_in_processes(folder, 2)
    check_equal(trained, folder.trained("jax-alone"), devices=2)
    check_saved(trained)


def test_several_tensorflow_processes_are_a_usage_error_that_suggests_jax(
    wisesr: CommandLine, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    words = ("--coordinator", "127.0.0.1:1234", "--num-processes", 2, "--process-id", 0)
    wisesr("train", folder.photos, "-o", folder.path / "runs", *words).failed(
        2, "JAX backend only", "KERAS_BACKEND=jax wisesr train"
    )
    assert not (folder.path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_four_devices_match_one_and_their_run_resumes_on_one(backend: str, folder: Folder) -> None:
    pytest.importorskip(backend)
    one_epoch = ("--max-steps", STEPS_PER_EPOCH)
    begun = folder.command("resumed", *shared(4), *one_epoch, backend=backend)
    resumed = folder.command("resumed", "--resume", *one_epoch, backend=backend)
    trained = train_on_devices(folder, backend, 4, ("begun", begun), ("resumed", resumed))
    alone = folder.trained(f"{backend}-alone")
    check_equal(trained, alone, devices=4)
    check_saved(trained)
    check_same_history(folder.trained("resumed"), alone)
    check_saved(folder.trained("resumed"))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("processes", "devices"), [(4, 1), (2, 2)])
def test_four_devices_in_several_processes_match_one(processes: int, devices: int, folder: Folder) -> None:
    pytest.importorskip("jax")
    trained = train_in_processes(folder, processes, devices)
    check_equal(trained, folder.trained("jax-alone"), devices=4)
    check_saved(trained)
