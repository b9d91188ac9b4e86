"""Odd names of files and classes, end to end: exact, never raw on a terminal, in one order (promises 19 and 21)."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import (
    QUICK,
    REPOSITORY,
    CommandLine,
    Trained,
    environment,
    make_photo,
    make_photos,
    snapshot,
    train_apart,
)
from odd_names import ODD_NAMES, assert_nothing_raw
from reliability import Seen

from wisesr_cli.run.records import read_rows

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a run whose classes, folders and image files all have odd names."""
    root = tmp_path_factory.mktemp("odd")
    photos = root / ODD_NAMES["escape"] / ODD_NAMES["not UTF-8"] / "photos \x1b[2J\u202e[b]\n"
    for label, name in enumerate(ODD_NAMES.values()):
        for number in range(3):
            make_photo(photos / name / odd_file(name, number), label % 3, 10 * label + number)
    made = train_apart(root / "runs \x1b[1m\n\u202e", photos, "--epochs", "1", name=None)
    return Trained(next(path for path in made.run.iterdir()), photos)


def odd_file(name: str, number: int) -> str:
    """Return a file name of at most 255 bytes that begins with an odd name."""
    return os.fsdecode(os.fsencode(name)[:240]) + f" {number}.png"


ODD_CLASSES = sorted(name.partition("/")[0] for name in ODD_NAMES.values())  # a slash starts a folder in a class


@pytest.mark.reliability(19)
@pytest.mark.parametrize(
    "words",
    [
        "init PHOTOS -o OUT",
        *("check PHOTOS --image-size 32" + more for more in ("", " -v")),
        *(f"check PHOTOS --image-size 32 --format {name}" for name in ("json", "csv", "markdown")),
        "check RUN",
        "config show PHOTOS",
        "config show PHOTOS --format json",
        "config show RUN",
        "summarize PHOTOS --backbone compact_small --image-size 32 --head gap",
        *(f"summarize RUN --head gap --format {name}" for name in ("json", "csv")),
        "train PHOTOS --dry-run --backbone compact_small --image-size 32 -v",
        *(f"evaluate RUN {more}" for more in ("-v", "--data PHOTOS", "--report")),
        *(f"evaluate RUN --format {name}" for name in ("json", "csv", "markdown")),
        *(f"predict RUN PHOTOS --format {name}" for name in ("table", "json", "jsonl", "csv", "markdown")),
        "predict RUN PHOTOS --format csv -o OUT",
        "explain RUN PHOTOS --pictures 9 -o OUT",
        *(f"explain RUN PHOTOS --pictures 0 -o OUT --format {name}" for name in ("json", "markdown")),
        *("explain RUN --weights -o OUT" + more for more in ("", " --format csv")),
        "doctor --device cpu",
    ],
)
def test_every_command_handles_odd_names_and_prints_none_raw(
    wisesr: CommandLine, odd: Trained, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    here = tmp_path / ODD_NAMES["escape"] / ODD_NAMES["not UTF-8"]
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("WISESR_CACHE_DIR", str(here / "caches \x1b[31m"))
    places = {"RUN": odd.run, "PHOTOS": odd.photos, "OUT": here / "out \x1b[31m.yaml"}
    answer = wisesr.line(words, **places).worked()
    assert_nothing_raw(answer.out + answer.err)
    if "json" in words:
        assert answer.records if "jsonl" in words else answer.data
    if "--format csv" in words and "-o" not in words:
        assert len({len(row) for row in csv.reader(answer.out.splitlines())}) == 1
    seen(f"{words.split()[0]}: exit 0, nothing raw")


@pytest.mark.reliability(19)
def test_every_file_of_a_run_preserves_odd_names_exactly(wisesr: CommandLine, odd: Trained, seen: Seen) -> None:
    run = odd.run
    assert wisesr("evaluate", run, "--report").code == 0
    assert re.fullmatch(r"[\w.-]+-wise", run.name)
    assert json.loads((run / "classes.json").read_text(encoding="utf-8")) == ODD_CLASSES
    rows = read_rows(run / "splits.csv", 3)
    assert {label for _, label, _ in rows} == set(ODD_CLASSES)
    assert len(rows) == 3 * len(ODD_NAMES)
    assert all((odd.photos / path).is_file() for path, _, _ in rows)
    folder = run / "evaluate-validation"
    judged = read_rows(folder / "predictions.csv", 6)
    assert {truth for _, truth, *_ in judged} == set(ODD_CLASSES)
    assert all((odd.photos / path).is_file() for path, *_ in judged)
    assert [row[0] for row in read_rows(folder / "per_class.csv", 5)] == ODD_CLASSES
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["classes"] == ODD_CLASSES
    for path in (run / "splits.csv", *folder.iterdir(), run / "config.yaml", run / "environment.json"):
        assert_nothing_raw(path.read_text(encoding="utf-8"))
    plots = {"learning_curves.png", "confusion_matrix-validation.png", "reliability-validation.png"}
    assert {path.name for path in (run / "plots").iterdir()} >= plots
    assert [path.name for path in (run / "tensorboard").iterdir()] != []
    assert wisesr("config", "show", run, "--format", "json").data["data"]["dir"] == str(odd.photos)
    seen(f"run directory '{run.name}'; splits.csv, predictions.csv, classes.json: {len(rows)} exact names; plots made")


@pytest.mark.reliability(19)
def test_predictions_preserve_odd_names_exactly(wisesr: CommandLine, odd: Trained, tmp_path: Path, seen: Seen) -> None:
    paths = sorted(str(path) for path in odd.photos.rglob("*.png"))
    records = wisesr("predict", odd.run, odd.photos, "--format", "json").data
    assert sorted(record["path"] for record in records) == paths
    assert wisesr("predict", odd.run, odd.photos, "--format", "jsonl").records == records
    for name in ("out.csv", os.fsdecode(b"out\xff\x1b.csv")):
        answer = wisesr("predict", odd.run, odd.photos, "--format", "csv", "-o", tmp_path / name).worked()
        assert_nothing_raw(answer.err)
        rows = read_rows(tmp_path / name, 7)
        assert [(row[0], row[1]) for row in rows] == [(record["path"], record["label"]) for record in records]
    (tmp_path / "list").write_bytes(b"\0".join(os.fsencode(path) for path in paths))
    listed = wisesr("predict", odd.run, "--from-file", tmp_path / "list", "--null", "--format", "json").data
    assert [record["path"] for record in listed] == paths
    seen(f"predict: {len(records)} records, names exact in JSON, JSONL and CSV")


@pytest.mark.slow
@pytest.mark.reliability(19)
def test_init_train_and_resume_work_with_odd_names(
    wisesr: CommandLine, odd: Trained, tmp_path: Path, seen: Seen
) -> None:
    assert wisesr("init", odd.photos, "-o", tmp_path / "c.yaml").code == 0
    words = ("train", tmp_path / "c.yaml", *QUICK, "-o", tmp_path / os.fsdecode(b"runs \xff\n\x1b[31m"), "--name", "r")
    first = wisesr(*words, "--epochs", "1").worked()
    assert "no TensorBoard logs" in first.err
    again = wisesr(*words, "--epochs", "2", "--resume").worked()
    assert_nothing_raw(first.out + first.err + again.out + again.err)
    seen("init, train and --resume in folders that are not UTF-8: exit 0")


@pytest.mark.reliability(19)
@pytest.mark.parametrize("name", ["escape", "newline", "bidi", "not UTF-8", "255 bytes"])
def test_an_error_with_an_odd_name_is_one_line(
    wisesr: CommandLine, trained: Trained, name: str, tmp_path: Path
) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    (folder / "red" / odd_file(ODD_NAMES[name], 0)).write_bytes(b"")
    train = ("train", *QUICK, "-o", tmp_path / "out")
    for words in (
        (*train, folder),
        ("check", folder, "--image-size", "32"),
        ("evaluate", trained.run, "--data", folder),
    ):
        answer = wisesr(*words).failed(3)
        assert "empty file" in answer.out + answer.error
        assert_nothing_raw(answer.out + answer.err)
    missing = wisesr(*train, tmp_path / ODD_NAMES[name]).failed(3)
    assert missing.error.count("\n") == 0
    assert_nothing_raw(missing.err)


# What rich itself sends to a terminal without colours: bold and dim, and its progress bars.
OWN_CONTROLS = re.compile(r"\x1b\[[0-3]?m|\x1b\[[0-9]*[AKG]|\x1b\[2K|\x1b\[\?25[lh]|\r")


@pytest.mark.reliability(19)
@pytest.mark.slow
def test_a_terminal_of_80_columns_shows_odd_names_as_escapes(odd: Trained, tmp_path: Path, seen: Seen) -> None:
    lines = [
        ["init", str(odd.photos), "-o", "config.yaml"],
        ["check", str(odd.photos), "--image-size", "32", "-v"],
        ["train", str(odd.photos), *QUICK, "--epochs", "1", "--device", "cpu"],
        ["evaluate", str(odd.run), "-v"],
        ["evaluate", str(odd.run), "--data", str(odd.photos)],
        ["predict", str(odd.run), str(odd.photos)],
        ["predict", str(odd.run), str(odd.photos), "--format", "markdown"],
        ["summarize", str(odd.run), "--head", "gap"],
        ["config", "show", str(odd.photos)],
        ["train", str(odd.photos / "no such")],
        ["train", "x", "--no\x1b[31m"],
    ]
    program = f"from wisesr_cli.cli.main import run\nprint('CODES', [run(line) for line in {lines!r}])"
    shown = on_terminal([sys.executable, "-c", program], tmp_path, columns=80)
    assert "CODES [0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 2]" in shown
    assert_nothing_raw(OWN_CONTROLS.sub("", shown))
    assert "\\x1b[31m" in shown
    assert "\\u202e" in shown
    seen("11 command lines on a pseudo-terminal of 80 columns: escapes shown, no raw control characters")


def on_terminal(command: list[str], folder: Path, *, columns: int) -> str:
    """Run a command with a pseudo-terminal for all its streams and return everything it displayed."""
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    variables = {**environment(folder), "NO_COLOR": "1", "TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        command, cwd=folder, env=variables, stdin=follower, stdout=follower, stderr=follower, close_fds=True
    )
    os.close(follower)
    parts = []
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(leader)
    process.wait(60)
    return b"".join(parts).decode("utf-8", "surrogateescape")


# 21: the order of classes

NUMBERS = tuple(str(number) for number in range(12))
ORDER = ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a run with classes named 0 to 11."""
    root = tmp_path_factory.mktemp("twelve")
    for number, (split, count) in enumerate((("train", 4), ("val", 2), ("test", 3))):
        make_numbered(root / "photos" / split, count, first_seed=100 * number)
    return train_apart(root, root / "photos", "--epochs", "2")


def make_numbered(folder: Path, count: int, *, first_seed: int, names: tuple[str, ...] = NUMBERS) -> Path:
    for name in names:
        for number in range(count):
            make_photo(folder / name / f"{number}.png", int(name) % 3, first_seed + 1000 * int(name) + number)
    return folder


@pytest.mark.reliability(21)
def test_classes_have_one_order_everywhere(wisesr: CommandLine, twelve: Trained, tmp_path: Path, seen: Seen) -> None:
    run = twelve.copy_to(tmp_path / "run")
    assert tuple(json.loads((run / "classes.json").read_text(encoding="utf-8"))) == ORDER
    metrics = wisesr("evaluate", run, "--format", "json").data
    assert tuple(metrics["classes"]) == ORDER
    assert tuple(row["label"] for row in metrics["per_class"]) == ORDER
    assert tuple(row[0] for row in read_rows(run / "evaluate-test" / "per_class.csv", 5)) == ORDER
    with (run / "evaluate-test" / "confusion_matrix.csv").open(encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["truth", *ORDER]
    predictions = wisesr("predict", run, twelve.photos / "test", "--format", "json", "--top-k", "12").data
    evaluated = {row[0]: row[2] for row in read_rows(run / "evaluate-test" / "predictions.csv", 6)}
    assert len(predictions) == len(evaluated) == 36
    for record in predictions:
        assert sorted(top["label"] for top in record["top"]) == sorted(ORDER)
        assert evaluated[str(Path(record["path"]).relative_to(twelve.photos))] == record["label"]
    matrix = [[0] * 12 for _ in ORDER]
    for record in predictions:
        matrix[ORDER.index(Path(record["path"]).parent.name)][ORDER.index(record["label"])] += 1
    assert matrix == metrics["confusion_matrix"]
    seen(f"classes.json, evaluate and predict: {', '.join(ORDER)}")


@pytest.mark.reliability(21)
def test_classes_match_by_name_in_any_order(wisesr: CommandLine, twelve: Trained, tmp_path: Path, seen: Seen) -> None:
    run = twelve.copy_to(tmp_path / "run")
    answers = []
    for order in (NUMBERS, NUMBERS[::-1], NUMBERS[6:] + NUMBERS[:6]):
        folder = make_numbered(tmp_path / f"order {order[0]}" / "fresh", 2, first_seed=500, names=order)
        answers.append(wisesr("evaluate", run, "--data", folder, "--format", "json"))
    assert {answer.code for answer in answers} == {0}
    assert len({answer.out for answer in answers}) == 1
    lacking = make_numbered(tmp_path / "lacking", 2, first_seed=500, names=("3", "11", "7"))
    few = wisesr("evaluate", run, "--data", lacking, "--format", "json").data
    assert tuple(few["classes"]) == ORDER
    support = {row["label"]: row["support"] for row in few["per_class"]}
    assert support == {name: 2 if name in {"3", "11", "7"} else 0 for name in ORDER}
    assert {row["label"] for row in few["per_class"] if row["recall"] is None} == {*ORDER} - {"3", "11", "7"}
    whole = answers[0].data["confusion_matrix"]
    for name in ("3", "11", "7"):
        assert few["confusion_matrix"][ORDER.index(name)] == whole[ORDER.index(name)]
    make_numbered(lacking, 1, first_seed=1, names=("12",))
    before = snapshot(run)
    wisesr("evaluate", run, "--data", lacking).refused(3, "1 class that the run does not know: '12'")
    assert snapshot(run) == before
    seen("three orders: identical output; 9 missing classes: support 0; class 12: exit 3")
