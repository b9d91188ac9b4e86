"""`wisesr compare`: heads over seeds, all else equal, resumable at any point."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest
from command_line import (
    KERAS,
    REPOSITORY,
    CommandLine,
    command,
    fresh,
    loaded_after,
    make_photos,
    make_splits,
    rows_of,
    snapshot,
)
from comparisons import HEADS, OPTIONS, SEEDS, Compared, settings_of, without_seconds
from reliability import Seen
from run_states import digest

import wisesr_cli
from wisesr_cli.comparison import compare
from wisesr_cli.comparison.plan import plan_of
from wisesr_cli.comparison.progress import CombinedProgress
from wisesr_cli.comparison.tables import CSV_HEADER
from wisesr_cli.config.reader import load_config
from wisesr_cli.errors import NotFiniteError
from wisesr_cli.listening import Silent
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.locks import locked
from wisesr_cli.requests import CompareRequest
from wisesr_cli.run.run import Run

ROW_FIELDS = {
    *("head", "seeds", "top1_accuracy_mean", "top1_accuracy_std", "macro_f1_mean", "macro_f1_std", "head_parameters"),
    *("total_parameters", "seconds_per_epoch_mean", "difference_to_first_mean", "difference_to_first_ci95"),
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    folder = tmp_path_factory.mktemp("compared")
    photos = make_splits(folder / "photos", train=12, validation=5, test=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WISESR_CACHE_DIR", str(tmp_path_factory.mktemp("caches")))
        result = wisesr_cli.compare(
            photos, settings_of(folder / "runs" / "both"), heads=HEADS, seeds=2, listener=Silent()
        )
    assert result.output_dir == str(folder / "runs" / "both")
    return Compared(folder / "runs" / "both", photos, json.loads(json.dumps(result.to_json())))


def correct(run: Path) -> list[bool]:
    """Return which test images a run got right."""
    return [row["truth"] == row["predicted"] for row in rows_of(run / "evaluate-test" / "predictions.csv")]


# Results


def test_the_result_has_the_documented_fields_and_the_figures_of_its_runs(compared: Compared) -> None:
    answers = {(head, seed): correct(compared.folder / f"{head}-seed{seed}") for head in HEADS for seed in SEEDS}
    gap, wise = compared.answer["rows"]
    for row in (gap, wise):
        accuracies = [statistics.mean(answers[row["head"], seed]) for seed in SEEDS]
        assert row.keys() >= ROW_FIELDS
        assert row["seeds"] == [0, 1]
        assert row["top1_accuracy_mean"] == pytest.approx(statistics.mean(accuracies))
        assert row["top1_accuracy_std"] == pytest.approx(statistics.stdev(accuracies))
    assert gap["difference_to_first_mean"] is None
    assert gap["difference_to_first_ci95"] is None
    differences = [a - b for seed in SEEDS for a, b in zip(answers["wise", seed], answers["gap", seed], strict=True)]
    assert wise["difference_to_first_mean"] == pytest.approx(statistics.mean(differences))
    low, high = wise["difference_to_first_ci95"]
    assert low <= wise["difference_to_first_mean"] <= high
    assert [compared.answer[name] for name in ("split", "examples", "same_examples")] == ["test", 21, True]


def test_every_training_is_a_separate_run_that_other_commands_accept(compared: Compared, wisesr: CommandLine) -> None:
    run = compared.folder / "wise-seed1"
    assert load_config(run / "config.yaml").config.seed == 1
    assert wisesr("predict", run, compared.photos / "test" / "red", "-q").code == 0


def test_json_csv_and_markdown_agree(compared: Compared, wisesr: CommandLine) -> None:
    line = ["compare", compared.photos, *OPTIONS, "-o", compared.folder.parent, "--name", compared.folder.name]
    answer = wisesr(*line, "--resume", "--format", "json")
    assert answer.data == compared.answer == json.loads((compared.folder / "comparison.json").read_text())
    table = wisesr(*line, "--resume", "--format", "csv").out
    assert table == (compared.folder / "comparison.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert tuple(rows[0]) == CSV_HEADER
    assert [float(row["top1_accuracy_mean"]) for row in rows] == [
        row["top1_accuracy_mean"] for row in compared.answer["rows"]
    ]
    text = (compared.folder / "comparison.md").read_text()
    assert wisesr(*line, "--resume", "--format", "markdown").out == text
    for sentence in compared.answer["conclusions"]:
        assert f"- {sentence}" in text.replace("\\", "")
    pictures = [(compared.folder / "plots" / name).read_bytes()[:4] for name in ("accuracy.png", "learning_curves.png")]
    assert pictures == [b"\x89PNG"] * 2


def test_epochs_to_the_first_heads_best_are_counted_within_the_same_seed(compared: Compared) -> None:
    for training in compared.answer["trainings"]:
        first = next(
            item for item in compared.answer["trainings"] if (item["head"], item["seed"]) == ("gap", training["seed"])
        )
        reached = [value >= max(first["accuracies"]) for value in training["accuracies"]]
        assert training["epochs_to_first_best"] == (reached.index(True) + 1 if any(reached) else None)


@pytest.mark.slow
def test_a_training_does_not_depend_on_earlier_ones_in_the_same_process(compared: Compared, tmp_path: Path) -> None:
    """The last of four trainings equals the same one in a process of its own, bit for bit."""
    run = compared.folder / "wise-seed1"
    variables = {"PYTHONPATH": str(REPOSITORY), "KERAS_BACKEND": keras_start.backend_name()}
    line = ("train", run / "config.yaml", "-o", tmp_path, "--name", "alone", "-q")
    fresh(*line, cwd=tmp_path, variables=variables).worked()
    assert digest(tmp_path / "alone") == digest(run)


# Resuming


def interrupt_after(steps: int, patch: pytest.MonkeyPatch) -> None:
    """Send SIGTERM to this process after `steps` training steps."""
    advance, done = CombinedProgress.advance, [0]

    def advance_and_signal(self: CombinedProgress, count: int = 1) -> None:
        advance(self, count)
        done[0] += count
        if done[0] == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(CombinedProgress, "advance", advance_and_signal)


@pytest.mark.slow
@pytest.mark.reliability(24)
def test_an_interrupted_and_resumed_comparison_equals_an_uninterrupted_one(
    compared: Compared, wisesr: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "cut"
    (tmp_path / "runs").mkdir()
    with monkeypatch.context() as patch:
        interrupt_after(11, patch)  # each training takes 6 steps: this is in the second epoch of the second one
        stopped = wisesr(*compared.line(folder))
    assert stopped.code == 143
    assert "stopped by SIGTERM" in stopped.error
    assert "to resume: wisesr " in stopped.err
    trained: list[str] = []
    with monkeypatch.context() as patch:
        count_trainings(trained, patch)
        answer = wisesr(*compared.line(folder, "--resume", "--format", "json"))
    assert answer.code == 0, answer.err
    assert trained == ["wise-seed0", "gap-seed1", "wise-seed1"]
    assert without_seconds(answer.data) == without_seconds(compared.answer)
    assert digest(folder / "wise-seed0") == digest(compared.folder / "wise-seed0")


def count_trainings(trained: list[str], patch: pytest.MonkeyPatch) -> None:
    """Record the name of every run that is trained."""
    train = compare.train.train

    def noted(loaded: Any, *arguments: Any) -> Any:
        trained.append(loaded.config.name)
        return train(loaded, *arguments)

    patch.setattr(compare.train, "train", noted)


def test_a_finished_comparison_is_reported_again_without_keras(compared: Compared, tmp_path: Path) -> None:
    folder = compared.copy_to(tmp_path / "again")
    words = [str(word) for word in compared.line(folder, "--resume", "--format", "json")]
    code, loaded, err = loaded_after(command(*words), tmp_path)
    assert code == 0, err
    assert not loaded & set(KERAS) - {"matplotlib"}
    assert json.loads((folder / "comparison.json").read_text()) == compared.answer


@pytest.mark.slow
@pytest.mark.reliability(32)
def test_a_non_finite_loss_after_adding_seeds_skips_only_its_own_training(
    compared: Compared, wisesr: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, trained = compared.copy_to(tmp_path / "more"), []
    train = compare.train.train

    def fail_once(loaded: Any, *arguments: Any) -> Any:
        trained.append(loaded.config.name)
        if loaded.config.name == "gap-seed2":
            raise NotFiniteError("the training loss became nan at step 1 of epoch 1")
        return train(loaded, *arguments)

    monkeypatch.setattr(compare.train, "train", fail_once)
    answer = wisesr(*compared.line(folder, "--resume", "--format", "json", "--seeds", "3"))
    assert answer.code == 3
    assert answer.error == (
        "wisesr: 1 training of 6 skipped: gap, seed 2: the training loss became nan at step 1 of epoch 1"
    )
    assert trained == ["gap-seed2", "wise-seed2"]
    gap, wise = json.loads(answer.out)["rows"]
    assert (gap["seeds"], gap["missing_seeds"], wise["seeds"]) == ([0, 1], [2], [0, 1, 2])
    assert wise["difference_to_first_mean"] == compared.answer["rows"][1]["difference_to_first_mean"]
    monkeypatch.setattr(compare.train, "train", train)
    mended = wisesr(*compared.line(folder, "--resume", "--format", "json", "--seeds", "3")).worked()
    assert [row["seeds"] for row in mended.data["rows"]] == [[0, 1, 2], [0, 1, 2]]


def test_a_comparison_with_only_non_finite_losses_still_prints_a_table(
    compared: Compared, wisesr: CommandLine, tmp_path: Path
) -> None:
    # Every step makes every weight 99 times larger.
    larger = "train.optimizer={name: sgd, learning_rate: 100, weight_decay: 1}"
    broken = ["-s", larger, "--lr", "100", "-b", "1", "--seeds", "1", "--format", "json"]
    answer = wisesr(*compared.line(tmp_path / "broken", *broken)).failed(3, "2 trainings of 2 skipped")
    assert [row["missing_seeds"] for row in json.loads(answer.out)["rows"]] == [[0], [0]]
    assert not (tmp_path / "broken" / "plots").exists()


def test_fewer_epochs_are_rejected(compared: Compared, wisesr: CommandLine, tmp_path: Path) -> None:
    folder = compared.copy_to(tmp_path / "shorter")
    before = (folder / "trainings.json").read_bytes()
    wisesr(*compared.line(folder, "--resume", "--epochs", "1")).failed(
        2, "has 2 epochs; it can be extended, but not cut to 1"
    )
    assert (folder / "trainings.json").read_bytes() == before


@pytest.mark.slow
def test_more_epochs_extend_the_trainings(compared: Compared, wisesr: CommandLine, tmp_path: Path) -> None:
    folder = compared.copy_to(tmp_path / "longer")
    answer = wisesr(*compared.line(folder, "--resume", "--format", "json", "--epochs", "3", "--seeds", "1")).worked()
    assert [(item["schedules"], item["epochs"]) for item in answer.data["trainings"]] == [([2, 3], 3)] * 2


@pytest.mark.reliability(27, 31)
def test_changed_config_or_images_and_damage_exit_with_4(
    compared: Compared, wisesr: CommandLine, tmp_path: Path
) -> None:
    folder = compared.copy_to(tmp_path / "kept")
    before = snapshot(folder)
    changed = wisesr(*compared.line(folder, "--resume", "-b", "6")).failed(4, "train.batch_size: 12 -> 6")
    assert "--overwrite" not in changed.error
    other = wisesr(*compared.line(folder, "--resume", "--data", make_photos(tmp_path / "others", 6)))
    assert other.code == 4
    wisesr(*compared.line(folder)).failed(2, "exists; give another --name, or continue with --resume")
    (folder / ".lock").unlink()
    assert snapshot(folder) == before
    state = (folder / "trainings.json").read_text()
    edits = {'"accuracies"': '"accuracy"', '"epochs": 2': '"epochs": "x"', '"evaluate-test"': '"../evaluate-test"'}
    edited = [state.replace(written, damage) for written, damage in edits.items()]
    for damage in ("{", "[]", "null", '{"circumstances": {}, "epochs": 2, "trainings": {}}', *edited):
        (folder / "trainings.json").write_text(damage)
        damaged = wisesr(*compared.line(folder, "--resume"))
        assert (damaged.code, "trainings.json: damaged" in damaged.error) == (4, True), damage


def test_a_missing_evaluation_is_repeated_without_training(
    compared: Compared, wisesr: CommandLine, tmp_path: Path
) -> None:
    folder = compared.copy_to(tmp_path / "again")
    shutil.rmtree(folder / "gap-seed1" / "evaluate-test")
    history = (folder / "gap-seed1" / "history.csv").read_bytes()
    answer = wisesr(*compared.line(folder, "--resume", "--format", "json"))
    assert without_seconds(answer.data) == without_seconds(compared.answer)
    assert (folder / "gap-seed1" / "history.csv").read_bytes() == history


def test_resume_accepts_moved_images_with_a_note(compared: Compared, wisesr: CommandLine, tmp_path: Path) -> None:
    photos = shutil.copytree(compared.photos, tmp_path / "copied", copy_function=shutil.copyfile)
    line = compared.line(compared.copy_to(tmp_path / "kept"), "--resume", "--data", photos, "--format", "json")
    answer = wisesr(*line).worked()
    assert without_seconds(answer.data) == without_seconds(compared.answer)
    assert f"-> {photos}: the same images in another place" in answer.err


def test_a_run_with_edited_results_is_evaluated_again_without_overwriting_them(
    compared: Compared, wisesr: CommandLine, tmp_path: Path
) -> None:
    folder = compared.copy_to(tmp_path / "judged")
    edited: dict[Path, str] = {}
    for run, answer in (("gap-seed0", "false"), ("wise-seed1", "damaged")):
        predictions = folder / run / "evaluate-test" / "predictions.csv"
        lines = predictions.read_text().splitlines()
        edited[predictions] = "\n".join([lines[0], *(f"{line.rpartition(',')[0]},{answer}" for line in lines[1:])])
        predictions.write_text(edited[predictions])
    for _ in range(2):  # the second time, there is nothing left to do
        again = wisesr(*compared.line(folder, "--resume", "--format", "json"))
        assert (again.code, without_seconds(again.data)) == (0, without_seconds(compared.answer))
        assert {path: path.read_text() for path in edited} == edited


def test_a_run_replaced_by_something_else_is_rejected(compared: Compared, wisesr: CommandLine, tmp_path: Path) -> None:
    folder = compared.copy_to(tmp_path / "swapped")
    shutil.rmtree(folder / "wise-seed1")
    shutil.copytree(folder / "gap-seed1", folder / "wise-seed1", ignore=shutil.ignore_patterns(".lock"))
    wisesr(*compared.line(folder, "--resume")).failed(4, "model.head.name: gap -> wise")
    shutil.rmtree(folder / "wise-seed1")
    (folder / "wise-seed1").write_text("mine")
    wisesr(*compared.line(folder, "--resume")).failed(2, f"remove {folder / 'wise-seed1'}")


def test_a_removed_run_forgets_its_earlier_schedules(compared: Compared, tmp_path: Path) -> None:
    run = Run(compared.folder / "gap-seed0")
    assert compare.schedules_of(run, (2,), 2) == (2,)
    assert compare.schedules_of(run, (2,), 3) == (2, 3)
    assert compare.schedules_of(Run(tmp_path / "gone"), (2,), 3) == (3,)
    assert compare.schedules_of(Run(tmp_path / "gone"), (2, 3), 3) == (3,)


@pytest.mark.reliability(30)
def test_a_comparison_in_use_exits_with_5(compared: Compared, wisesr: CommandLine, tmp_path: Path) -> None:
    folder = compared.copy_to(tmp_path / "held")
    with locked(folder / ".lock"):
        answer = wisesr(*compared.line(folder, "--resume"))
    assert (answer.code, f"in use by another wisesr (pid {os.getpid()})" in answer.error) == (5, True)


def test_the_default_name_is_the_source_name_with_a_counter(
    compared: Compared, wisesr: CommandLine, tmp_path: Path
) -> None:
    compared.copy_to(tmp_path / "photos-compare")
    line = ["compare", compared.photos, *OPTIONS, "-o", tmp_path]
    again = wisesr(*line, "--resume", "-q", "--format", "json")
    assert (again.code, again.data) == (0, compared.answer)
    (tmp_path / "photos-compare-2").mkdir()
    (tmp_path / "photos-compare-2" / "mine.txt").write_text("x")
    plan = plan_of(CompareRequest(compared.photos, heads=HEADS, seeds=SEEDS))
    loaded = load_config(compared.photos, ()).config.model_copy(update={"output_dir": tmp_path})
    assert plan.default_name == "photos-compare"
    from wisesr_cli.comparison.folder import choose_comparison

    assert choose_comparison(loaded, "photos-compare", resume=False).run.path.name == "photos-compare-3"


def test_a_damaged_run_is_reported_with_a_remedy(compared: Compared, wisesr: CommandLine, tmp_path: Path) -> None:
    folder = compared.copy_to(tmp_path / "damaged")
    (folder / "gap-seed1" / "best.keras").write_bytes(b"PK")
    shutil.rmtree(folder / "gap-seed1" / "evaluate-test")
    answer = wisesr(*compared.line(folder, "--resume"))
    answer.failed(4, "best.keras", f"remove {folder / 'gap-seed1'}, and --resume trains it again")


# Killed at any moment


@pytest.mark.slow
@pytest.mark.reliability(25)
@pytest.mark.parametrize("moment", ["gap, seed 0 (1", "wise, seed 0 (2", "gap, seed 1 (3", "wise, seed 1 (4"])
def test_a_comparison_killed_at_any_moment_and_resumed_equals_an_uninterrupted_one(
    compared: Compared, wisesr: CommandLine, tmp_path: Path, moment: str, seen: Seen
) -> None:
    """A process kills itself, first just before and then just after it records a training's result, and is resumed."""
    folder, number = tmp_path / "killed", moment[-1]
    words = [str(word) for word in compared.line(folder, "--resume", "-q")]
    for when in ("before", "after"):
        program = KILLED.format(number=number, when=when)
        answer = fresh(*words, cwd=tmp_path, program=("-c", program))
        assert answer.code == -signal.SIGKILL, answer.err
    answer = wisesr(*words[:-1], "--format", "json").worked()
    assert without_seconds(answer.data) == without_seconds(compared.answer)
    seen("comparison killed twice during a training: resumed with the same figures")


KILLED = """
import os, signal, sys
from wisesr_cli.comparison import state
from wisesr_cli.__main__ import main
put, done = state.ComparisonState.put, []
def killing(self, run, record):
    done.append(run)
    if record.is_done and len(set(self.trainings)) == {number}:
        if "{when}" == "after":
            put(self, run, record)
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, run, record)
state.ComparisonState.put = killing
sys.argv[0] = "wisesr"
main()
"""
