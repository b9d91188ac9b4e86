"""The command line keeps its promises: exit codes, one line per error, options, and clean machine formats."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import (
    CLASSES,
    QUICK,
    SMALL,
    Answer,
    CommandLine,
    Trained,
    environment,
    fresh,
    make_photo,
    make_photos,
)

from wisesr_cli.cli.main import COMMANDS, run

ALL = ("config show", "config schema", *(name for name in COMMANDS if name != "config"))

OPTIONS = {
    "demo": "-o --output-dir --seed",
    "init": "-o --output --overwrite",
    "check": "-s --set --data --image-size --format",
    "train": "-s --set --data -o --output-dir --name --seed --epochs -b --batch-size --image-size --backbone --head "
    "--learning-rate --lr --device --precision --tracker --resume --overwrite --dry-run --max-steps --time-limit "
    "--coordinator --num-processes --process-id --fail-under",
    "evaluate": "--split --data -b --batch-size --pixel-limit --report --fail-under --image-size --device --precision "
    "--format",
    "predict": "--from-file --null --top-k --min-score -b --batch-size --format -o --output --overwrite --resume "
    "--strict --pixel-limit --image-size --device --precision --explain --show --shard --engine --ray-address "
    "--ray-workers",
    "explain": "--class --weights -o --output-dir --from-file --null --pictures -b --batch-size --format --show "
    "--pixel-limit --device",
    "compare": "--heads --seeds -s --set --data -o --output-dir --name --epochs -b --batch-size --image-size "
    "--backbone --learning-rate --lr --precision --device --tracker --resume --format",
    "export": "--to --quantize --image-size --data -o --output-dir --overwrite --device --format",
    "upgrade": "-s --set --data --classes --preprocessing --image-size --head -o --output-dir --name --overwrite "
    "--device --format",
    "summarize": "--backbone --head --classes --image-size -s --set --latency --device --format",
    "config show": "-s --set --data -o --output-dir --name --seed --epochs -b --batch-size --image-size --backbone "
    "--head --learning-rate --lr --precision --format",
    "config schema": "",
    "doctor": "--device --format",
}
WITH_PROGRESS = (
    "demo",
    "init",
    "check",
    "train",
    "evaluate",
    "predict",
    "explain",
    "compare",
    "export",
    "upgrade",
    "summarize",
    "doctor",
)

DISK_FULL = "wisesr: the disk is full; free some room, then repeat the command (train and predict -o: with --resume)\n"


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos") / "photos", 6)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def has_gpu() -> bool:
    import tensorflow

    return bool(tensorflow.config.list_physical_devices("GPU"))


# Help


@pytest.mark.parametrize("command", ALL)
def test_help_of_every_command_lists_its_options(
    wisesr: CommandLine, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    answer = wisesr(*command.split(), "--help")
    assert (answer.code, answer.err) == (0, "")
    words = set(answer.out.replace(",", " ").replace("/", " ").split())
    wanted = {*OPTIONS[command].split(), "--debug", *(("-q", "--quiet") if command in WITH_PROGRESS else ())}
    assert not wanted - words
    assert f"Usage: wisesr {command}" in answer.out
    assert "\x1b" not in answer.out


def test_help_names_every_command_with_a_sentence(wisesr: CommandLine) -> None:
    answer = wisesr("--help")
    assert (answer.code, answer.err) == (0, "")
    for name, sentence in COMMANDS.items():
        assert name in answer.out
        assert " ".join(sentence.split()[:4]) in answer.out


def test_the_commands_are_in_modules_of_their_names() -> None:
    folder = Path(sys.modules["wisesr_cli"].__file__ or "").with_name("cli")
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "main", "options"}
    assert modules == set(COMMANDS)


def test_without_arguments_the_help_is_shown_and_the_exit_code_is_2(wisesr: CommandLine) -> None:
    answer = wisesr()
    assert answer.code == 2
    assert "summarize" in answer.out


def test_version_is_one_line(wisesr: CommandLine) -> None:
    answer = wisesr("--version")
    assert (answer.code, answer.out.split()[0], answer.out.count("\n")) == (0, "wisesr", 1)


# Usage and config: 2


@pytest.mark.parametrize(
    ("command", "meant"),
    [("evaluat", "evaluate"), ("trian", "train"), ("sumarize", "summarize"), ("Predict", "predict")],
)
def test_an_unknown_command_is_2_with_the_nearest_spelling(wisesr: CommandLine, command: str, meant: str) -> None:
    answer = wisesr(command, "x")
    assert (answer.code, answer.out) == (2, "")
    assert f"Did you mean '{meant}'?" in answer.error


def test_an_unknown_command_below_config_is_2_with_the_nearest_spelling_or_all_of_them(wisesr: CommandLine) -> None:
    for word, meant in (("shwo", "Did you mean 'show'?"), ("nothing", "Allowed: show, schema.")):
        answer = wisesr("config", word)
        assert (answer.code, answer.out) == (2, "")
        assert meant in answer.error


@pytest.mark.parametrize(
    ("command", "option", "meant"),
    [
        ("train x", "--epoch=3", "--epochs"),
        ("train x", "--learning-rat=1", "--learning-rate"),
        ("evaluate x", "--batchsize=3", "--batch-size"),
        ("predict x y", "--topk=3", "--top-k"),
        ("summarize", "--backbon=x", "--backbone"),
        ("check x", "--fromat=json", "--format"),
        ("init x", "--overwite", "--overwrite"),
        ("demo", "--seeed=1", "--seed"),
        ("doctor", "--devise=cpu", "--device"),
        ("config show", "--nam=x", "--name"),
    ],
)
def test_an_unknown_option_is_2_with_the_nearest_spelling(
    wisesr: CommandLine, command: str, option: str, meant: str
) -> None:
    answer = wisesr(*command.split(), option)
    assert (answer.code, answer.out) == (2, "")
    assert meant in answer.error
    assert "--help" in answer.error


@pytest.mark.parametrize(
    "line",
    [
        "train",
        "train x --epochs many",
        "train x --device tpu",
        "train x --max-steps 0",
        "evaluate",
        "evaluate RUN --split dev",
        "evaluate RUN --format xml",
        "evaluate RUN -b 0",
        "evaluate RUN --fail-under top1=0.9",
        "evaluate RUN --split test --data PHOTOS",
        "predict RUN",
        "predict RUN PHOTOS --top-k 0",
        "predict RUN PHOTOS --min-score 2",
        "predict RUN PHOTOS --resume",
        "predict RUN PHOTOS -o missing/out.csv",
        "summarize --classes 1",
        "summarize --backbone ResNet51",
        "summarize --head wize",
        "summarize --image-size wide",
        "config nothing",
        "config show -s train.epoch=3",
        "train PHOTOS -s model.head.name=wize",
        "train PHOTOS -s nonsense",
        "train PHOTOS --name ../x",
        "train PHOTOS --fail-under nothing=1",
        "train PHOTOS --resume --overwrite",
        "init PHOTOS -o missing/config.yaml",
    ],
)
def test_a_mistake_on_the_command_line_is_2_and_one_line(
    wisesr: CommandLine, trained: Trained, photos: Path, line: str
) -> None:
    words = {"RUN": trained.run, "PHOTOS": photos}
    answer = wisesr(*(words.get(word, word) for word in line.split()))
    assert answer.code == 2
    assert answer.out == ""
    assert answer.error


def test_a_newline_in_what_was_typed_does_not_start_a_second_line(wisesr: CommandLine) -> None:
    for line in (["train", "x", "--ev\nil\x1b[31m"], ["ev\nil"], ["train", "x", "--device", "g\npu"]):
        answer = wisesr(*line)
        assert answer.code == 2
        assert "\\n" in answer.error or "\\x0a" in answer.error
        assert "\x1b" not in answer.err


def test_every_mistake_in_a_config_is_one_line_with_file_line_and_key(wisesr: CommandLine, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("schema_version: 1\nmodel:\n  bakbone: VGG16\ntrain:\n  epochs: many\n", encoding="utf-8")
    answer = wisesr("train", config)
    assert (answer.code, answer.out) == (2, "")
    first, second = answer.err.splitlines()
    assert first.startswith(f"wisesr: {config}:3: ")
    assert "Did you mean 'backbone'?" in first
    assert second.startswith(f"wisesr: {config}:5: ")


def test_a_name_that_was_given_and_is_taken_is_2(wisesr: CommandLine, trained: Trained) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.run.rglob("*")}
    answer = wisesr("train", trained.photos, *QUICK, "-o", trained.run.parent, "--name", trained.run.name)
    assert answer.code == 2
    assert "--resume" in answer.error
    assert "--overwrite" in answer.error
    assert {path: path.stat().st_mtime_ns for path in trained.run.rglob("*")} == before


# Data: 3


@pytest.mark.parametrize("command", ["train", "check", "init", "config show", "summarize"])
def test_a_missing_folder_is_3(wisesr: CommandLine, command: str) -> None:
    answer = wisesr(*command.split(), "no-such-folder")
    assert (answer.code, answer.out) == (3, "")
    assert "no-such-folder" in answer.error


@pytest.mark.parametrize("command", ["train", "init"])
def test_a_flat_folder_is_3_with_the_layout_that_is_expected(wisesr: CommandLine, command: str, tmp_path: Path) -> None:
    make_photo(tmp_path / "flat" / "a.png", 0, 0)
    answer = wisesr(command, tmp_path / "flat")
    assert (answer.code, answer.out) == (3, "")
    assert "FOLDER/CLASS/IMAGE.jpg" in answer.error


def test_a_check_of_a_flat_folder_is_3_and_its_rows_say_the_layout(wisesr: CommandLine, tmp_path: Path) -> None:
    make_photo(tmp_path / "flat" / "a.png", 0, 0)
    answer = wisesr("check", tmp_path / "flat", "--format", "json")
    assert answer.code == 3
    assert answer.data["status"] == "fail"
    assert "FOLDER/CLASS/IMAGE.jpg" in answer.out
    assert answer.error


def test_evaluating_on_a_missing_folder_is_3(wisesr: CommandLine, trained: Trained) -> None:
    answer = wisesr("evaluate", trained.run, "--data", "nowhere")
    assert (answer.code, answer.out) == (3, "")
    assert "nowhere" in answer.error


def test_an_empty_training_file_is_3_before_the_first_epoch(wisesr: CommandLine, tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    (folder / "red" / "broken.png").write_bytes(b"")
    answer = wisesr("train", folder, *QUICK, "-o", tmp_path / "runs")
    assert answer.code == 3
    assert "broken.png" in answer.error
    assert "epoch 1/" not in answer.err


# Run directory: 4


@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize("run_path", ["missing", "photos", "file.txt", "broken.keras"])
def test_what_is_no_run_is_4(wisesr: CommandLine, photos: Path, tmp_path: Path, command: str, run_path: str) -> None:
    (tmp_path / "file.txt").write_text("text", encoding="utf-8")
    (tmp_path / "broken.keras").write_bytes(b"PK\x03\x04 no archive")
    shutil.copytree(photos, tmp_path / "photos")
    more = [photos] if command == "predict" else ["--data", photos]
    answer = wisesr(command, tmp_path / run_path, *more)
    assert (answer.code, answer.out) == (4, "")
    assert run_path in answer.error


# The machine: 5


@pytest.mark.parametrize("command", ["train PHOTOS", "evaluate RUN", "predict RUN PHOTOS", "summarize"])
def test_a_gpu_that_is_not_there_is_5_with_the_line_that_installs_it(
    wisesr: CommandLine, trained: Trained, photos: Path, command: str
) -> None:
    if has_gpu():
        pytest.skip("this machine has a GPU")
    words = {"RUN": trained.run, "PHOTOS": photos}
    answer = wisesr(*(words.get(word, word) for word in command.split()), "--device", "gpu")
    assert (answer.code, answer.out) == (5, "")
    assert "pip install 'wisesr[gpu]'" in answer.error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_to_write_is_5_before_training(
    wisesr: CommandLine, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    answer = wisesr("train", photos, *SMALL, "-o", tmp_path / "closed")
    assert answer.code == 5
    assert "epoch 1/" not in answer.err
    assert answer.error


def test_a_file_where_the_output_folder_should_be_is_no_bug(wisesr: CommandLine, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    answer = wisesr("train", photos, *SMALL, "-o", tmp_path / "file")
    assert answer.code in {2, 5}
    assert "file" in answer.error


CHEAP = (["config", "show"], ["--help"], ["config", "schema"], ["check", "photos", "--format", "json", "-q"])


def write_to(stdout: object, line: list[str], folder: Path) -> tuple[int, str]:
    """Run a command line in a fresh process with another standard output."""
    command = [sys.executable, "-m", "wisesr_cli", *line]
    done = subprocess.run(  # type: ignore[call-overload]
        command,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment(folder),
        cwd=folder,
        timeout=120,
        check=False,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.mark.reliability(43)
@pytest.mark.parametrize("line", CHEAP, ids=" ".join)
def test_a_full_disk_behind_standard_output_is_5(line: list[str], tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 3)
    with Path("/dev/full").open("wb") as full:
        assert write_to(full, line, tmp_path) == (5, DISK_FULL)


@pytest.mark.reliability(43)
@pytest.mark.parametrize("line", CHEAP, ids=" ".join)
def test_a_closed_pipe_is_141_and_silent(line: list[str], tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 3)
    read_end, write_end = os.pipe()
    os.close(read_end)
    assert write_to(write_end, line, tmp_path) == (141, "")
    os.close(write_end)


PRINTING = (
    *(f"predict RUN PHOTOS --format {name}" for name in ("table", "json", "jsonl", "csv", "markdown")),
    *(f"evaluate RUN --format {name}" for name in ("table", "json", "csv", "markdown")),
    *("summarize --backbone compact_small --head gap", "check PHOTOS", "doctor --format json"),
)


@pytest.mark.reliability(43)
@pytest.mark.parametrize("command", PRINTING)
@pytest.mark.parametrize("broken", ["full", "pipe"])
def test_results_that_nobody_takes_are_5_and_141(
    command: str,
    broken: str,
    trained: Trained,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seen: Callable[[str], None],
) -> None:
    words = {"RUN": str(trained.run), "PHOTOS": str(photos)}
    if broken == "full":
        stream = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115
    else:
        read_end, write_end = os.pipe()
        os.close(read_end)
        stream = os.fdopen(write_end, "w", encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    code = run([*(words.get(word, word) for word in command.split()), "-q"])
    monkeypatch.undo()
    stream.close()
    assert (code, capsys.readouterr().err) == ((5, DISK_FULL) if broken == "full" else (141, ""))
    seen(f"{len(PRINTING)} commands: {'/dev/full' if broken == 'full' else 'closed pipe'}: exit {code}")


# Unreadable images: 6, gates: 7


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = make_photos(tmp_path / "mixed", 2, classes=("red",)) / "red"
    (folder / "01.png").write_bytes((folder / "00.png").read_bytes()[:-40])
    (folder / "02.jpg").write_text("this is text", encoding="utf-8")
    make_photo(folder / "03.png", 1, 3)
    return folder


@pytest.mark.reliability(41)
def test_unreadable_images_are_6_with_a_record_for_every_input_in_order(
    wisesr: CommandLine, trained: Trained, mixed: Path
) -> None:
    answer = wisesr("predict", trained.run, mixed, mixed / "missing.png", "--format", "json")
    assert answer.code == 6
    assert [Path(row["path"]).name for row in answer.data] == ["00.png", "01.png", "02.jpg", "03.png", "missing.png"]
    for number, row in enumerate(answer.data):
        if number in {0, 3}:
            assert row["error"] is None
            assert row["label"] == row["top"][0]["label"]
        else:
            assert (row["label"], row["score"], row["top"]) == (None, None, [])
            assert row["error"]
    assert "truncated" in answer.data[1]["error"]
    assert "3 of 5 images could not be read" in answer.err


@pytest.mark.reliability(41)
def test_strict_makes_unreadable_images_3_at_the_end(wisesr: CommandLine, trained: Trained, mixed: Path) -> None:
    answer = wisesr("predict", trained.run, mixed, "--strict", "--format", "jsonl")
    assert answer.code == 3
    assert len(answer.out.splitlines()) == 4
    assert "2 of 4 images" in answer.error


@pytest.mark.reliability(41)
def test_no_readable_image_and_no_image_at_all_are_3(wisesr: CommandLine, trained: Trained, mixed: Path) -> None:
    assert wisesr("predict", trained.run, mixed / "02.jpg", "--format", "jsonl").code == 3
    assert wisesr("predict", trained.run, "missing.png").code == 3
    (mixed / "empty").mkdir()
    assert wisesr("predict", trained.run, mixed / "empty").code == 3
    assert wisesr("predict", trained.run, "nothing-*.png").code == 3


def test_a_gate_that_is_missed_is_7_after_the_result(wisesr: CommandLine, trained: Trained) -> None:
    line = ("evaluate", trained.run, "--format", "json", "--fail-under")
    answer = wisesr(*line, "log_loss=0.0001")
    assert answer.code == 7
    assert answer.data["examples"] == 15
    assert "log_loss" in answer.error
    assert wisesr(*line, "top1_accuracy=0.5").code == 0


def test_train_has_gates_too(wisesr: CommandLine, photos: Path, tmp_path: Path) -> None:
    answer = wisesr(
        "train", photos, *QUICK, "--epochs", "1", "-o", tmp_path, "--fail-under", "log_loss=0", "--name", "g"
    )
    assert answer.code == 7
    assert "log_loss" in answer.error
    assert (tmp_path / "g" / "best.keras").is_file()


# Signals: 130, 143


def stop_after_an_epoch(command: list[str], number: int, folder: Path) -> tuple[int, str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "wisesr_cli", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(folder),
        cwd=folder,
        text=True,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("epoch "):
            process.send_signal(number)
            break
    lines += process.stderr.read().splitlines(keepends=True)
    return process.wait(60), "".join(lines)


def interrupt_when_longer(path: Path, size: int) -> None:
    """Send SIGINT to this process as soon as the file has grown."""
    for _ in range(1_200):
        if path.stat().st_size > size:
            os.kill(os.getpid(), signal.SIGINT)
            return
        time.sleep(0.05)


@pytest.mark.reliability(24)
def test_a_training_stopped_by_signals_is_143_and_130_and_goes_on(
    wisesr: CommandLine, photos: Path, tmp_path: Path
) -> None:
    line = ["train", str(photos), *QUICK, "--epochs", "2000", "-o", str(tmp_path), "--name", "run"]
    code, err = stop_after_an_epoch(line, signal.SIGTERM, tmp_path)
    assert code == 143, err
    last = err.splitlines()[-1]
    assert last.startswith("wisesr: stopped by SIGTERM")
    assert "--resume" in last
    assert "Traceback" not in err
    history = tmp_path / "run" / "history.csv"
    threading.Thread(target=interrupt_when_longer, args=(history, history.stat().st_size), daemon=True).start()
    answer = wisesr(*line, "--resume")
    assert answer.code == 130
    assert answer.error.startswith("wisesr: stopped by SIGINT")
    epochs = len(history.read_text(encoding="utf-8").splitlines()) - 1
    answer = wisesr(*line, "--resume", "--max-steps", "2")
    assert answer.code == 0
    assert "--resume" in answer.err
    rows = list(csv.DictReader(history.open(encoding="utf-8")))
    assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= epochs >= 2


# Machine formats


def keys(value: Any) -> list[str]:
    return list(value)


METRIC_KEYS = [
    "examples",
    "top1_accuracy",
    "top5_accuracy",
    "balanced_accuracy",
    "macro_precision",
    "macro_recall",
    "macro_f1",
    "macro_auc",
    "log_loss",
    "ece",
    "classes",
    "per_class",
    "confusion_matrix",
]


def test_evaluate_json_has_exactly_the_promised_fields(wisesr: CommandLine, trained: Trained) -> None:
    answer = wisesr("evaluate", trained.run, "--format", "json")
    assert answer.code == 0
    assert keys(answer.data) == METRIC_KEYS
    assert answer.data["classes"] == list(CLASSES)
    assert [keys(row) for row in answer.data["per_class"]] == [["label", "support", "precision", "recall", "f1"]] * 3
    assert answer.data["top5_accuracy"] == 1.0
    assert answer.out.count("\n") == 1
    assert "device: " in answer.err


def test_predict_json_jsonl_and_csv_hold_the_same_records(wisesr: CommandLine, trained: Trained, mixed: Path) -> None:
    answers = {name: wisesr("predict", trained.run, mixed, "--format", name) for name in ("json", "jsonl", "csv")}
    assert {answer.code for answer in answers.values()} == {6}
    records = answers["json"].data
    assert [json.loads(line) for line in answers["jsonl"].out.splitlines()] == records
    for record in records:
        assert keys(record) == ["path", "label", "score", "top", "error"]
        assert all(keys(top) == ["label", "score"] for top in record["top"])
        if record["error"] is None:
            scores = [top["score"] for top in record["top"]]
            assert scores == sorted(scores, reverse=True)
            assert sum(scores) == pytest.approx(1)
    rows = list(csv.DictReader(io.StringIO(answers["csv"].out)))
    assert [row["path"] for row in rows] == [record["path"] for record in records]
    assert [row["label"] or None for row in rows] == [record["label"] for record in records]
    assert [float(row["score"]) if row["score"] else None for row in rows] == [record["score"] for record in records]


def test_summarize_json_has_exactly_the_promised_fields(wisesr: CommandLine) -> None:
    answer = wisesr("summarize", "--backbone", "compact_small", "--image-size", "32", "--format", "json")
    assert answer.code == 0
    assert keys(answer.data) == ["rows"]
    for row in answer.data["rows"]:
        assert keys(row) == [
            "backbone",
            "image_height",
            "image_width",
            "classes",
            "head",
            "feature_map",
            "backbone_parameters",
            "head_parameters",
            "total_parameters",
            "trainable_parameters",
            "head_flops",
            "total_flops",
            "size_mb",
        ]


def test_check_json_has_exactly_the_promised_fields(wisesr: CommandLine, photos: Path) -> None:
    answer = wisesr("check", photos, "--image-size", "32", "--format", "json")
    assert answer.code == 0
    assert keys(answer.data) == ["status", "findings"]
    assert answer.data["status"] in {"pass", "warn"}
    for row in answer.data["findings"]:
        assert keys(row) == ["level", "code", "message", "count", "paths"]
        assert row["level"] in {"pass", "warn", "fail"}


@pytest.mark.parametrize("output", ["csv", "markdown"])
@pytest.mark.parametrize("command", ["evaluate RUN", "summarize --backbone compact_small", "check PHOTOS"])
def test_csv_and_markdown_are_tables_with_rows_of_one_length(
    wisesr: CommandLine, trained: Trained, photos: Path, command: str, output: str
) -> None:
    words = {"RUN": trained.run, "PHOTOS": photos}
    answer = wisesr(*(words.get(word, word) for word in command.split()), "--format", output)
    assert answer.code == 0
    rows = list(csv.reader(io.StringIO(answer.out), delimiter="," if output == "csv" else "|"))
    assert len(rows) > 2
    if output == "csv":
        assert len({len(row) for row in rows}) == 1
    else:
        tables = [line for line in answer.out.splitlines() if line.startswith("|")]
        assert all(line.endswith("|") for line in tables)
        assert answer.out.count("| --- |") + answer.out.count("| ---: |") > 0
        assert "### " in answer.out  # every table has its title


def test_tables_are_data_and_go_to_standard_output(wisesr: CommandLine, trained: Trained) -> None:
    answer = wisesr("evaluate", trained.run)
    assert "top-1 accuracy" in answer.out
    assert "top-1 accuracy" not in answer.err
    assert "written to" in answer.err
    assert "written to" not in answer.out


def test_quiet_leaves_standard_error_empty(wisesr: CommandLine, trained: Trained, photos: Path) -> None:
    for line in (
        ["evaluate", trained.run, "-q"],
        ["predict", trained.run, photos, "-q"],
        ["check", photos, "-q"],
        ["summarize", "--backbone", "compact_small", "--head", "gap", "-q"],
        ["init", photos, "-q"],
    ):
        answer = wisesr(*line)
        assert (answer.code, [line for line in answer.err.splitlines() if "retracing" not in line]) == (0, []), line


def test_verbose_shows_a_long_table_whole(wisesr: CommandLine, tmp_path: Path) -> None:
    for number in range(60):
        make_photo(tmp_path / "many" / f"class {number:02}" / "a.png", number % 3, number)
    line = ("train", tmp_path / "many", *SMALL, "--dry-run", "-s", "data.validation_split=0", "-o", tmp_path / "runs")
    short, whole = wisesr(*line), wisesr(*line, "-v")
    assert (short.code, whole.code) == (0, 0)
    assert "class 30" not in short.err
    assert "more ..." in short.err
    assert all(f"class {number:02}" in whole.err for number in range(60))


# Debug and bugs


def test_a_traceback_is_shown_with_debug_only(wisesr: CommandLine) -> None:
    assert "Traceback" not in wisesr("train", "nowhere").err
    answer = wisesr("train", "nowhere", "--debug")
    assert answer.code == 3
    assert "Traceback" in answer.err
    assert answer.err.startswith("wisesr: nowhere")


def test_a_traceback_shows_odd_names_as_escapes(wisesr: CommandLine, tmp_path: Path) -> None:
    answer = wisesr("train", "no\x1b[31m\n\u202e", "--debug")
    assert answer.code == 3
    assert "Traceback" in answer.err
    assert "\x1b" not in answer.err
    assert "\u202e" not in answer.err
    program = "import wisesr_cli.training.checks as c\n"
    program += "def bug(*_): raise KeyError('\\x1b[31m\\u202e')\nc.check_config = bug\n"
    program += "import sys; sys.argv = ['wisesr', 'check', 'photos']\nfrom wisesr_cli.__main__ import main; main()"
    make_photos(tmp_path / "photos", 3)
    bug = fresh(cwd=tmp_path, program=("-c", program))
    assert bug.code == 1
    assert "KeyError" in bug.err
    assert "\x1b" not in bug.err


def test_too_little_memory_is_5_and_one_line(
    trained: Trained, wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise MemoryError("Unable to allocate 286. GiB")

    monkeypatch.setattr("wisesr_cli.prediction.predict.predict_paths", refuse)
    answer = wisesr("predict", trained.run, trained.photos / "test", "-b", 100_000_000)
    assert answer.code == 5
    assert answer.error == "wisesr: not enough memory: Unable to allocate 286. GiB"


def test_a_bug_shows_its_traceback_and_is_1(tmp_path: Path) -> None:
    program = "import wisesr_cli.cli.check, wisesr_cli.training.checks as c\nc.check_config = None\n"
    program += "import sys; sys.argv = ['wisesr', 'check', 'photos']\nfrom wisesr_cli.__main__ import main; main()"
    make_photos(tmp_path / "photos", 3)
    answer = fresh(cwd=tmp_path, program=("-c", program))
    assert answer.code == 1
    assert "Traceback" in answer.err
    assert "TypeError" in answer.err


# The program


@pytest.mark.reliability(35)
def test_python_m_is_the_same_program_and_ignores_modules_in_the_current_folder(tmp_path: Path, photos: Path) -> None:
    for name in ("json", "keras_cv", "keras_hub", "typer", "yaml", "numpy", "rich", "os", "re", "difflib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('code of the current folder was run')", encoding="utf-8")
    program = Path(sys.executable).with_name("wisesr")
    lines = ([*["check", "--format", "json"], str(photos)], ["--version"], ["config", "show"], ["nothing"])
    for line in lines:
        answer = fresh(*line, cwd=tmp_path)
        assert "code of the current folder" not in answer.out + answer.err
        assert answer.code == (2 if line == ["nothing"] else 0), answer.err
        done = subprocess.run(
            [program, *line], cwd=tmp_path, env=environment(tmp_path), capture_output=True, check=False, text=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (answer.code, answer.out, answer.err)


@pytest.mark.reliability(35, 37)
def test_neither_modules_in_the_current_folder_nor_the_users_keras_settings_change_a_prediction(
    wisesr: CommandLine, tmp_path: Path, trained: Trained
) -> None:
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text(
        json.dumps({"floatx": "float16", "epsilon": 0.5, "image_data_format": "channels_first", "backend": "torch"}),
        encoding="utf-8",
    )
    for name in ("json", "keras_cv", "keras_hub", "keras_nlp", "tensorflow_text"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('code of the current folder was run')", encoding="utf-8")
    photo = trained.photos / "test" / "red" / "00.png"
    answer = fresh("predict", trained.run, photo, "--format", "json", cwd=tmp_path)
    assert answer.code == 0, answer.err
    expected = wisesr("predict", trained.run, photo, "--format", "json").data[0]
    assert answer.data[0]["label"] == expected["label"]
    assert answer.data[0]["score"] == pytest.approx(expected["score"], abs=1e-5)
    assert "\nWARNING" not in answer.err
    assert all(not line.startswith(("I0", "W0", "E0")) for line in answer.err.splitlines())


def test_a_terminal_that_knows_ascii_only_gets_escapes_and_no_crash(tmp_path: Path) -> None:
    make_photos(tmp_path / "猫", 3)
    answer = fresh("check", tmp_path / "猫", cwd=tmp_path, variables={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert answer.code == 0, answer.err
    assert "\\u732b" in answer.out
    assert answer.out.isascii()


CLOSED = ("<&-", ">&-", "2>&-", "<&- >&- 2>&-")


def with_closed(closed: str, *arguments: object, folder: Path) -> Answer:
    """Run a command line in a fresh process without some of its standard streams."""
    script = f'exec "$0" -m wisesr_cli "$@" {closed}'
    command = ["sh", "-c", script, sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment(folder), cwd=folder, capture_output=True, timeout=120, check=False, text=True
    )
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("line", [["--version"], ["config", "schema"]], ids=" ".join)
def test_standard_streams_that_are_closed_are_no_bug(line: list[str], closed: str, tmp_path: Path) -> None:
    answer = with_closed(closed, *line, folder=tmp_path)
    assert (answer.code, answer.err) == (0, "")
    assert (answer.out == "") == (" >&-" in f" {closed}")


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >&- 2>&-"])
def test_without_standard_streams_a_prediction_is_the_same_and_no_file_takes_their_place(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, closed: str
) -> None:
    line = ("predict", trained.run, trained.photos / "test", "--format", "jsonl", "-o")
    assert wisesr(*line, tmp_path / "expected").code == 0
    answer = with_closed(closed, *line, tmp_path / "out", folder=tmp_path)
    assert answer.code == 0, answer.err
    assert answer.out == ""
    records, expected = (
        [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]
        for name in ("out", "expected")
    )
    assert [record["label"] for record in records] == [record["label"] for record in expected]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["expected", "out"]


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_paths_from_a_standard_input_that_is_closed_are_3(trained: Trained, tmp_path: Path, closed: str) -> None:
    answer = with_closed(closed, "predict", trained.run, "-", folder=tmp_path)
    assert answer.code == 3
    if closed == "<&-":
        assert "standard input: cannot be read: it is closed" in answer.error


# The backend


def with_tensorflow(code: str, folder: Path) -> Answer:
    """Run a command line that needs a backend in a fresh process with this code in place of TensorFlow's."""
    (folder / "modules").mkdir()
    (folder / "modules" / "tensorflow.py").write_text(code, encoding="utf-8")
    program = f"import sys; sys.path.insert(0, {str(folder / 'modules')!r})\n"
    program += "sys.argv = ['wisesr', 'summarize', '--backbone', 'compact_small', '--latency', '-q']\n"
    program += "from wisesr_cli.__main__ import main; main()"
    return fresh(cwd=folder, program=("-c", program))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "raise ImportError('libodd.so.1: cannot open\\nshared object file')",
            "tensorflow cannot be loaded: libodd.so.1",
        ),
        ("import odd_package", "odd_package is not installed"),
    ],
)
def test_a_backend_that_cannot_be_loaded_is_5_with_the_reason(code: str, said: str, tmp_path: Path) -> None:
    answer = with_tensorflow(code, tmp_path)
    assert (answer.code, answer.out) == (5, "")
    assert said in answer.error
    assert "keras.json" not in answer.error


def test_a_bug_of_the_backend_is_not_blamed_on_settings_of_keras(tmp_path: Path) -> None:
    answer = with_tensorflow("raise ValueError('a bug of its own')", tmp_path)
    assert answer.code == 1
    assert "ValueError: a bug of its own" in answer.err
    assert "keras.json" not in answer.err


def test_run_returns_the_exit_code_and_never_exits() -> None:
    assert run(["--version"]) == 0
    assert run(["--no-such-option"]) == 2
