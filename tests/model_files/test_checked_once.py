"""A command opens and checks a model file once, and what was checked is what is loaded."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine, Trained
from keras_classifiers import plain

from wisesr_cli.errors import RunError
from wisesr_cli.model_files import archive
from wisesr_cli.model_files.archive import check_model
from wisesr_cli.model_files.loading import load_model
from wisesr_cli.upgrading import convert


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Count how often a model file is opened, and how often its weights are checked, by file name."""
    found: Counter[tuple[str, str]] = Counter()

    def counting(what: str, original: Callable[..., Any], name_of: Callable[[Any], str]) -> Callable[..., Any]:
        def call(given: Any, *others: Any) -> Any:
            found[Path(name_of(given)).name, what] += 1
            return original(given, *others)

        return call

    opening: Callable[[Path], AbstractContextManager[Any]] = archive.open_archive
    monkeypatch.setattr(archive, "open_archive", counting("opened", opening, str))
    monkeypatch.setattr(
        archive, "check_weights_apart", counting("checked", archive.check_weights_apart, lambda file: str(file.name))
    )
    return found


COMMANDS = {
    "evaluate": (1, "evaluate {run} --engine keras"),
    "evaluate a folder": (1, "evaluate {run} --engine keras --data {photos}/test"),
    "evaluate at another size": (1, "evaluate {run} --image-size 64 --engine keras"),
    "evaluate by LiteRT": (0, "evaluate {run} --data {photos}/test"),
    "predict": (1, "predict {run} {photos}/test/red/00.png --engine keras"),
    "predict by LiteRT": (0, "predict {run} {photos}/test/red/00.png"),
    "predict with pictures": (1, "predict {run} {photos}/test/red/00.png --engine keras --explain {tmp}/pictures"),
    "predict by LiteRT with pictures": (1, "predict {run} {photos}/test/red/00.png --explain {tmp}/pictures"),
    "explain": (1, "explain {run} {photos}/test/red/00.png"),
    "export": (1, "export {run} --to keras --data {photos}/test"),
    "resume": (2, "train {run} --resume"),  # before resuming, and the best model at the end
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_opens_and_checks_the_best_model_once(
    trained: Trained, tmp_path: Path, wisesr: CommandLine, counted: Counter[tuple[str, str]], command: str
) -> None:
    times, line = COMMANDS[command]
    places = {"run": trained.copy_to(tmp_path / "run"), "photos": trained.photos, "tmp": tmp_path}
    wisesr(*(word.format(**places) for word in line.split())).worked()
    assert counted["best.keras", "checked"] == times
    assert counted["best.keras", "opened"] == times + (command == "resume")  # which reads the scaling first


def test_an_upgrade_opens_and_checks_a_model_once(
    tmp_path: Path, wisesr: CommandLine, counted: Counter[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "keep_litert", lambda *arguments, **options: None)  # takes most of the time
    plain().save(tmp_path / "given.keras")
    wisesr("upgrade", tmp_path / "given.keras", "--preprocessing", "none", "-o", tmp_path / "runs").worked()
    assert counted["given.keras", "opened"] == counted["given.keras", "checked"] == 1


@pytest.mark.reliability(34)
@pytest.mark.parametrize("place", ["another file", "the same file"])
def test_a_file_replaced_or_rewritten_since_its_check_is_not_loaded(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    path, other = tmp_path / "best.keras", tmp_path / "other.keras"
    shutil.copyfile(trained.run / "best.keras", path)
    shutil.copyfile(path, other)
    checked = check_model(path)
    other.replace(path) if place == "another file" else path.write_bytes(other.read_bytes())
    monkeypatch.setattr("keras.models.load_model", lambda *arguments, **options: pytest.fail("it was loaded"))
    with pytest.raises(RunError, match=r"best\.keras: refused: it was rewritten since it was checked; repeat"):
        load_model(checked)


@pytest.mark.reliability(34)
def test_a_file_replaced_while_it_is_loaded_is_rejected(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    path, other, original = tmp_path / "best.keras", tmp_path / "other.keras", keras.models.load_model
    for copy in (path, other):
        shutil.copyfile(trained.run / "best.keras", copy)

    def load(place: Path, **options: Any) -> Any:
        other.replace(path)
        return original(place, **options)

    monkeypatch.setattr("keras.models.load_model", load)
    with pytest.raises(RunError, match="it was rewritten since it was checked"):
        load_model(check_model(path))
