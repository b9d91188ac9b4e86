"""Odd settings and texts, end to end: modules beside the images, Keras settings, YAML, names, and CSV cells."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import QUICK, WISESR, Answer, CommandLine, Trained, fresh, make_photo, make_photos, train_apart
from refused_yaml import REFUSED
from reliability import Seen
from run_states import read_history

from wisesr_cli.config.yaml_reader import MAX_BYTES
from wisesr_cli.run.records import read_rows
from wisesr_cli.text import parse_csv_cell

pytestmark = pytest.mark.usefixtures("empty_folder")

# 35: modules in the current folder

OTHERS = (
    *("keras_cv", "keras_hub", "keras_nlp", "keras_tuner", "tensorflow_text", "tensorflow_addons", "jax", "torch"),
    *("keras", "tensorflow", "numpy", "PIL", "yaml", "typer", "click", "rich", "pydantic", "matplotlib", "tensorboard"),
    *("sitecustomize", "usercustomize", "h5py", "scipy", "pandas", "optree", "absl", "google", "setuptools"),
)


@pytest.fixture
def trapped(tmp_path: Path) -> Path:
    """Return a folder with a module for every importable name; those that run list themselves in `executed`."""
    folder = tmp_path / "trapped"
    folder.mkdir()
    note = f"with open({str(tmp_path / 'executed')!r}, 'a') as file: file.write(__name__ + '\\n')\n"
    for name in {*sys.stdlib_module_names, *OTHERS}:
        (folder / f"{name}.py").write_text(note, encoding="utf-8")
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(note, encoding="utf-8")
    return folder


def executed(tmp_path: Path) -> list[str]:
    """Return the modules of the current folder that were executed."""
    path = tmp_path / "executed"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


PROGRAMS: dict[str, dict[str, Any]] = {"wisesr": {"executable": WISESR, "program": ()}, "python -m wisesr_cli": {}}


def run_program(program: str, words: Sequence[str], folder: Path, **variables: str) -> Answer:
    """Run `wisesr` or `python -m wisesr_cli` in a folder, with its home and caches elsewhere."""
    return fresh(*words, cwd=folder, home=folder.parent, variables=variables, **PROGRAMS[program])


@pytest.mark.reliability(35)
@pytest.mark.parametrize(
    ("words", "code"),
    [("--version", 0), ("config show", 0), ("check PHOTOS --image-size 32 --format json", 0), ("nothing", 2)],
)
def test_neither_program_executes_modules_of_the_current_folder_and_both_agree(
    words: str, code: int, trapped: Path, trained: Trained, tmp_path: Path, seen: Seen
) -> None:
    line = words.replace("PHOTOS", str(trained.photos)).split()
    ours, theirs = (run_program(program, line, trapped) for program in PROGRAMS)
    assert executed(tmp_path) == []
    assert ours.code == code, ours.err
    assert ours == theirs
    seen(f"{words.split()[0]}: exit {code}, none of {len(list(trapped.glob('*.py')))} modules executed")


@pytest.mark.reliability(35)
@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_no_command_executes_modules_of_the_current_folder(
    program: str, trapped: Path, trained: Trained, tmp_path: Path, seen: Seen
) -> None:
    photos, run = str(trained.photos), str(shutil.copytree(trained.run, tmp_path / "run"))
    lines = [
        ["init", photos],
        ["train", photos, *QUICK, "--epochs", "1"],
        ["evaluate", run],
        ["predict", run, photos, "--format", "jsonl"],
        ["summarize", photos, "--backbone", "compact_small", "--image-size", "32"],
        ["doctor"],
        ["demo", "--help"],
    ]
    for words in lines:
        answer = run_program(program, words, trapped)
        assert executed(tmp_path) == [], words
        assert answer.code == 0, answer.err
    seen(f"{program}: {', '.join(words[0] for words in lines)}: exit 0, nothing executed")


@pytest.mark.reliability(35)
def test_a_folder_named_wisesr_cli_and_an_empty_pythonpath_entry_have_no_effect(
    tmp_path: Path, trained: Trained, seen: Seen
) -> None:
    folder = tmp_path / "folder"
    note = f"with open({str(tmp_path / 'executed')!r}, 'a') as file: file.write(__name__ + '\\n')\n"
    for name in ("wisesr_cli", "json", "keras_cv", "typer"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(note, encoding="utf-8")
    assert run_program("wisesr", ["config", "show"], folder).code == 0
    shutil.rmtree(folder / "wisesr_cli")  # `python -m` and PYTHONPATH find it before our code runs
    (tmp_path / "link").symlink_to(folder)
    for program in PROGRAMS:
        for path in (":", str(folder), str(tmp_path / "link")):
            assert run_program(program, ["config", "show"], folder, PYTHONPATH=path).code == 0
    photo = str(trained.photos / "test" / "red" / "00.png")
    assert run_program("wisesr", ["predict", str(trained.run), photo], folder, PYTHONPATH=":").code == 0
    assert executed(tmp_path) == []
    seen("wisesr_cli/ beside the images: not executed under wisesr; PYTHONPATH with an empty entry: nothing executed")


@pytest.mark.reliability(35)
def test_matplotlib_settings_do_not_change_plots(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, seen: Seen
) -> None:
    pictures = []
    for name in ("plain", "styled"):
        run = Path(shutil.copytree(trained.run, tmp_path / name / "run"))
        if name == "styled":  # TeX would run a program
            settings = "text.usetex: True\nfont.size: 40\nfigure.facecolor: red\nsavefig.dpi: 20\n"
            (tmp_path / name / "matplotlibrc").write_text(settings, encoding="utf-8")
        fresh("evaluate", run, "--device", "cpu", cwd=tmp_path / name).worked()
        pictures.append([(path.name, path.read_bytes()) for path in sorted((run / "plots").iterdir())])
    assert pictures[0] == pictures[1]
    seen(f"a matplotlibrc with text.usetex beside the images: {len(pictures[0])} pictures byte for byte the same")


@pytest.mark.reliability(35)
def test_the_program_runs_in_site_packages_and_the_standard_library(tmp_path: Path) -> None:
    for folder in (Path(pytest.__file__).parents[1], Path(os.__file__).parent):
        answer = fresh("--version", cwd=folder, home=tmp_path, **PROGRAMS["wisesr"])
        assert (answer.code, answer.err) == (0, "")


def test_a_deleted_current_folder_exits_with_5(tmp_path: Path) -> None:
    program = "import os\nos.rmdir(os.getcwd())\nfrom wisesr_cli.__main__ import main\nmain()"
    (tmp_path / "gone").mkdir()
    fresh(cwd=tmp_path / "gone", program=("-c", program)).failed(5, "the current folder no longer exists")


# 37: Keras settings

KERAS_SETTINGS = {"floatx": "float16", "epsilon": 0.5, "image_data_format": "channels_first", "backend": "torch"}


def write_settings(home: Path, settings: str) -> None:
    (home / ".keras").mkdir()
    (home / ".keras" / "keras.json").write_text(settings, encoding="utf-8")


def train_fresh(folder: Path, photos: Path, settings: str | None, **variables: str) -> dict[str, Any]:
    """Train and predict in fresh processes with these Keras settings in the home folder; return the results."""
    folder.mkdir()
    if settings is not None:
        write_settings(folder, settings)
    words = ("train", photos, *QUICK, "--epochs", "2", "--device", "cpu", "--name", "run", "-s", "augment=paper")
    fresh(*words, cwd=folder, variables=variables).worked()
    run = folder / "runs" / "run"
    line = ("predict", run, photos, "--format", "jsonl", "--device", "cpu", "--engine", "keras")
    predicted = fresh(*line, cwd=folder, variables=variables).worked()
    return {"predictions": predicted.out, "history": read_history(run), "metrics": (run / "metrics.json").read_bytes()}


@pytest.mark.reliability(37)
def test_keras_settings_do_not_change_predictions(wisesr: CommandLine, trained: Trained, tmp_path: Path) -> None:
    write_settings(tmp_path, json.dumps(KERAS_SETTINGS))
    line = ("predict", trained.run, trained.photos / "test" / "red" / "00.png", "--format", "json")
    answer, expected = fresh(*line, cwd=tmp_path), wisesr(*line).data[0]
    assert answer.code == 0, answer.err
    assert answer.data[0]["label"] == expected["label"]
    assert answer.data[0]["score"] == pytest.approx(expected["score"], abs=1e-5)
    assert not [line for line in answer.err.splitlines() if line.startswith(("WARNING", "I0", "W0", "E0"))]


@pytest.mark.reliability(37)
@pytest.mark.slow
def test_keras_settings_do_not_change_training(trained: Trained, tmp_path: Path, seen: Seen) -> None:
    plain = train_fresh(tmp_path / "plain", trained.photos, None)
    assert len(plain["history"]) == 2
    assert train_fresh(tmp_path / "odd", trained.photos, json.dumps(KERAS_SETTINGS)) == plain
    limited = train_fresh(
        tmp_path / "limited", trained.photos, "not JSON", KERAS_MAX_EPOCHS="1", KERAS_MAX_STEPS_PER_EPOCH="1"
    )
    assert limited == plain
    count = len(plain["predictions"].splitlines())
    seen(f"2 epochs and {count} predictions: byte for byte the same under {', '.join(KERAS_SETTINGS)} and KERAS_MAX_*")


@pytest.mark.reliability(37)
@pytest.mark.parametrize("settings", ['{"floatx": "bfloat16\\u001b[31m"}', "[1]"])
def test_settings_rejected_by_keras_exit_with_5(trained: Trained, settings: str, tmp_path: Path, seen: Seen) -> None:
    write_settings(tmp_path, settings)
    assert fresh("predict", trained.run, trained.photos, cwd=tmp_path).code == 0  # LiteRT does not read Keras settings
    answer = fresh("predict", trained.run, trained.photos, "--engine", "keras", cwd=tmp_path).refused(5, "keras.json")
    assert "\x1b" not in answer.err
    seen(f"a keras.json that Keras rejects: exit 5, {answer.error[:60]}...")


# 38: YAML

YAML = {case: row for case, row in REFUSED.items() if len(row[0]) <= MAX_BYTES and "\udcff" not in row[0]} | {
    "more than 64 KB": ("# " + "x" * MAX_BYTES + "\n", 1, 1, "larger than 64 KB"),
    "very many values": ("a: [" + "1," * 30_000 + "]", 1, 39_999, "more than 20,000 values"),
    "an integer of 65,000 digits": ("- " + "9" * 65_000, 1, 3, "a number of 65,000 characters"),
}


@pytest.mark.reliability(38)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", ["train", "check", "config show", "summarize"])
@pytest.mark.parametrize("case", YAML)
def test_invalid_yaml_is_a_usage_error_with_line_and_column(
    wisesr: CommandLine, command: str, case: str, tmp_path: Path, seen: Seen
) -> None:
    text, line, column, word = YAML[case]
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    started = time.process_time()
    answer = wisesr(*command.split(), path).refused(2, f"wisesr: {path}:{line}:{column}: ", word)
    seconds = time.process_time() - started
    assert not (tmp_path / "runs").exists()
    if command == "train":
        seen(f"{case}: exit 2, :{line}:{column}: {answer.error.split(': ', 2)[2][:50]}; {seconds:.1f} s")


@pytest.mark.reliability(38)
def test_numbers_are_numbers_and_class_names_are_text(wisesr: CommandLine, tmp_path: Path, seen: Seen) -> None:
    folder = make_photos(tmp_path / "photos", 3, classes=("no", "on", "1e-3", "null"))
    (tmp_path / "c.yaml").write_text(
        f"data: {{dir: {folder}}}\ntrain:\n  optimizer: {{learning_rate: 1e-3}}\n"
        "  class_weights: {no: 1e0, on: 2, 1e-3: .5, null: 3.}\n",
        encoding="utf-8",
    )
    shown = wisesr("config", "show", tmp_path / "c.yaml", "--format", "json").data
    assert shown["train"]["optimizer"]["learning_rate"] == 0.001
    assert shown["train"]["class_weights"] == {"no": 1.0, "on": 2.0, "1e-3": 0.5, "null": 3.0}
    assert wisesr("train", tmp_path / "c.yaml", *QUICK, "--epochs", "1", "--name", "run").code == 0
    again = wisesr("config", "show", tmp_path / "runs" / "run", "--format", "json").data
    assert again["train"]["class_weights"] == shown["train"]["class_weights"]
    classes = json.loads((tmp_path / "runs" / "run" / "classes.json").read_text(encoding="utf-8"))
    assert classes == ["1e-3", "no", "null", "on"]
    seen("1e-3 is 0.001; classes no, on, 1e-3, null are text in config, classes.json and class_weights")


# 39: names that point elsewhere

LEADING_ELSEWHERE = ("../x", "/x", "a/b", "..", ".", "", "a\\b", ".hidden", "-x", "a\nb", "x" * 201, "~/x", "x/")


def below(folder: Path) -> set[str]:
    """Return everything below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.reliability(39)
@pytest.mark.parametrize("way", ["--name", "--set", "config"])
@pytest.mark.parametrize("name", LEADING_ELSEWHERE)
def test_a_run_name_that_is_not_a_plain_folder_name_is_rejected_and_writes_nothing(
    wisesr: CommandLine, name: str, way: str, tmp_path: Path, trained: Trained, seen: Seen
) -> None:
    (tmp_path / "c.yaml").write_text(f"data: {{dir: {trained.photos}}}\nname: {json.dumps(name)}\n", encoding="utf-8")
    before = below(tmp_path)
    given = {"--name": ["--name", name], "--set": ["-s", f"name={json.dumps(name)}"], "config": []}[way]
    source = tmp_path / "c.yaml" if way == "config" else trained.photos
    for more in ([], ["--overwrite"], ["--resume"], ["--dry-run"]):
        answer = wisesr("train", source, *QUICK, "-o", tmp_path / "runs", *given, *more)
        answer.refused(2, "must be a folder name without slashes")
    assert below(tmp_path) == before
    seen(f"{way} {ascii(name)[:20]}: exit 2")


@pytest.mark.reliability(39)
@pytest.mark.parametrize("name", ["\0", "\\ud800"])
def test_a_name_that_no_file_can_have_is_a_usage_error(wisesr: CommandLine, trained: Trained, name: str) -> None:
    value = f'"{name}"' if name != "\0" else '"\\0"'
    for key in ("name", "output_dir", "data.dir", "data.train_dir", "model.weights"):
        wisesr("train", trained.photos, *QUICK, "-s", f"{key}={value}").failed(2, key.split(".")[-1])


LONG = "\u732b" * 85  # 255 bytes


@pytest.mark.reliability(39)
@pytest.mark.parametrize(
    ("name", "here", "typed", "written"),
    [
        ("photos", "red", "..", "evaluate-photos"),
        ("photos", ".", "red/..", "evaluate-photos"),
        ("photos", ".", ".", "evaluate-photos"),
        ("photos", "..", "photos//", "evaluate-photos"),
        ("test", ".", ".", "evaluate-test"),
        ("..x\n\x1b", ".", ".", "evaluate-..x\n\x1b"),
        (LONG, ".", ".", f"evaluate-{LONG[:66]}"),
        (os.fsdecode(b"\xff"), ".", ".", os.fsdecode(b"evaluate-\xff")),
    ],
)
def test_results_stay_in_the_run_whatever_the_evaluated_folder_is_called(
    wisesr: CommandLine,
    trained: Trained,
    name: str,
    here: str,
    typed: str,
    written: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: Seen,
) -> None:
    run = trained.copy_to(tmp_path / "runs" / "tiny")
    photos = make_photos(tmp_path / "folder" / name, 2, first_seed=900)
    monkeypatch.chdir(photos / here)
    elsewhere, before = below(tmp_path / "folder"), set(run.iterdir())
    answer = wisesr("evaluate", run, "--data", typed, "--format", "json").worked()
    assert answer.data["examples"] == 6
    assert {path.name for path in set(run.iterdir()) - before} == {written}
    assert below(tmp_path / "folder") == elsewhere
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tiny"]
    seen(f"evaluate --data {typed}: written to {written[:20]!a}")


# 40: cells of CSV files

FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "x;=1+1", "x,=1", 'x"=1', "=cmd|' !A0", "\n=1")


@pytest.fixture(scope="module")
def formulas(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a run whose class and file names a spreadsheet would take for formulas."""
    root = tmp_path_factory.mktemp("formulas")
    for label, name in enumerate(FORMULAS):
        for number in range(3):
            make_photo(root / "photos" / name / f"{name}{number}.png", label % 3, 10 * label + number)
    return train_apart(root, root / "photos", "--epochs", "1")


def cells_of(text: str, delimiter: str = ",") -> list[str]:
    """Return the cells that a spreadsheet would see."""
    return [cell for row in csv.reader(text.splitlines(), delimiter=delimiter) for cell in row]


def assert_no_formula(text: str) -> None:
    """Check that no cell starts a formula, even with semicolons as separators."""
    for delimiter in ",;":
        bad = [cell for cell in cells_of(text, delimiter) if re.match(r"[=+@\t\r]|-(?!\d)", cell)]
        assert not bad, bad
    assert not re.search(r"[\t\r\x00]", text)


@pytest.mark.reliability(40)
def test_no_csv_cell_is_a_formula_and_every_name_parses_back(
    wisesr: CommandLine, formulas: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    run, photos = formulas.run, formulas.photos
    monkeypatch.chdir(photos)  # so that paths begin with the names
    outputs = {
        "predict": wisesr("predict", run, "--format", "csv", "--", *sorted(FORMULAS)),
        "evaluate": wisesr("evaluate", run, "--format", "csv"),
        "check": wisesr("check", photos, "--image-size", "32", "-s", f"output_dir={tmp_path}", "--format", "csv"),
        "summarize": wisesr("summarize", run, "--head", "gap", "--format", "csv"),
    }
    for name, answer in outputs.items():
        assert answer.code == 0, (name, answer.err)
        assert_no_formula(answer.out)
    rows = list(csv.reader(outputs["predict"].out.splitlines()))[1:]
    assert {parse_csv_cell(row[0]).split("/")[0] for row in rows} == set(FORMULAS)
    files = [run / "splits.csv", run / "history.csv", *sorted((run / "evaluate-validation").glob("*.csv"))]
    assert len(files) == 5
    for path in files:
        assert_no_formula(path.read_text(encoding="utf-8"))
    assert {label for _, label, _ in read_rows(run / "splits.csv", 3)} == set(FORMULAS)
    assert {row[0] for row in read_rows(run / "evaluate-validation" / "per_class.csv", 5)} == set(FORMULAS)
    assert {row[1] for row in read_rows(run / "evaluate-validation" / "predictions.csv", 6)} == set(FORMULAS)
    seen(
        f"{len(FORMULAS)} formulas as class and file names: neutralised in 4 outputs and {len(files)} files, parse back"
    )


@pytest.mark.reliability(40)
def test_jsonl_preserves_names_that_look_like_formulas(wisesr: CommandLine, formulas: Trained, seen: Seen) -> None:
    answer = wisesr("predict", formulas.run, formulas.photos, "--format", "jsonl")
    records = answer.records
    assert sorted(record["path"] for record in records) == sorted(map(str, formulas.photos.rglob("*.png")))
    assert {top["label"] for record in records for top in record["top"]} <= set(FORMULAS)
    assert answer.out.isascii()
    seen(f"predict --format jsonl: {len(records)} records, names exact")
