"""The small installation, wisesr-core: missing packages are reported before any work; the rest works without them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine, Trained

from wisesr_cli.display import plots
from wisesr_cli.evaluation import output
from wisesr_cli.machine import installation, keras_start
from wisesr_cli.machine.installation import install_line
from wisesr_cli.training import diagnosis

WITHOUT = {"tensorflow", "keras", "matplotlib", "jinja2", "tensorboard"}
pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this is an installation without TensorFlow."""
    found = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name in WITHOUT else found(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(plots, "find_spec", find_spec)
    for module in (keras_start, diagnosis):
        monkeypatch.setattr(module, "is_small", lambda: True)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "words",
    ["train PHOTOS", "compare PHOTOS", "explain RUN PHOTOS", "export RUN --to keras", "evaluate RUN --report", "demo"],
)
def test_a_command_that_needs_keras_exits_with_5_and_says_how_to_install_it(
    wisesr: CommandLine, trained: Trained, photos: Path, words: str
) -> None:
    answer = wisesr.line(words, RUN=trained.run, PHOTOS=photos)
    answer.refused(5, "wisesr-core comes without tensorflow", "checks, predicts", install_line("tensorflow"))
    assert answer.err.count("\n") == 1
    assert not list(Path().iterdir())


@pytest.mark.usefixtures("small")
def test_evaluate_leaves_out_its_plots_with_a_note(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained.copy_to(tmp_path / "run")
    monkeypatch.setattr(output, "plot_reliability", None)
    answer = wisesr("evaluate", run).worked()
    assert answer.said("no plots, as matplotlib is not installed: pip install ")
    assert not answer.said("pictures next to it")
    assert list(run.glob("evaluate*/metrics.json"))


@pytest.mark.usefixtures("small")
def test_doctor_warns_of_missing_packages_and_exits_with_0(wisesr: CommandLine) -> None:
    answer = wisesr("doctor", "--format", "json").worked()
    levels = {row["code"]: row["level"] for row in answer.data["findings"]}
    assert levels["installation"] == levels["litert"] == "pass"
    assert levels["device"] == "warn"
    assert "training-step" not in levels
    assert answer.finding("installation")["message"].startswith("wisesr-core, which checks, predicts, evaluates")
    assert install_line("tensorflow") in answer.finding("device")["message"]


@pytest.mark.parametrize("pair", [("wisesr", "wisesr-core"), ("tensorflow", "tensorflow-cpu")])
def test_two_distributions_with_the_same_files_are_a_warning_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str]
) -> None:
    monkeypatch.setattr(diagnosis, "installed", lambda name: object() if name in pair else None)
    level, message = diagnosis.CHECKS["installation"](".", "auto")
    assert level == "warn"
    assert message.endswith(f"pip uninstall {pair[0]} {pair[1]}, then install one of them")


def test_wisesr_core_with_tensorflow_does_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "is_small", lambda: True)
    message = diagnosis.CHECKS["installation"](".", "auto")[1]
    assert message.startswith("wisesr-core, with Keras, so it does everything; ")


def test_a_full_installation_names_the_resizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "resizer_name", lambda: "Pillow")
    monkeypatch.setattr(diagnosis, "installed", lambda name: None)
    monkeypatch.setattr(diagnosis, "is_small", lambda: False)
    assert diagnosis.CHECKS["installation"](".", "auto") == ("pass", "images are resized by Pillow")


def test_tensorflow_cpu_is_named_as_the_reason_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keras_start._why_no_gpu(built_for_it=True).endswith(f"for NVIDIA: {install_line('gpu')}")
    assert keras_start._why_no_gpu(built_for_it=False) == "this TensorFlow has no GPU support"
    monkeypatch.setattr(keras_start, "installed", lambda name: object() if name == "tensorflow-cpu" else None)
    assert keras_start._why_no_gpu(built_for_it=False) == (
        "tensorflow-cpu has no GPU support; for NVIDIA: pip uninstall tensorflow-cpu, then " + install_line("gpu")
    )


def test_versions_list_tensorflow_cpu_if_it_is_installed_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"wisesr-core": "0.1", "tensorflow-cpu": "2.21"}

    def version(name: str) -> str:
        if name not in versions:
            raise keras_start.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(keras_start, "version", version)
    assert keras_start.package_versions().keys() == {"python", *versions}
    assert installation.SMALL in keras_start.VERSIONED_PACKAGES
