"""The contract of the command line: exit codes, one line per error, and options."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from command_line import QUICK, SMALL, Answer, CommandLine, Trained, fresh, make_photos

from wisesr_cli.cli.main import COMMANDS, GROUPS, run
from wisesr_cli.machine.installation import install_line

ALL = (
    *("config show", "config schema", "runs list", "runs remove"),
    *("weights list", "weights fetch", "weights add", "weights path"),
    *(name for name in COMMANDS if name not in GROUPS),
)

OPTIONS = {
    "demo": "-o --output-dir --seed",
    "init": "-o --output --sample --list --overwrite",
    "check": "-s --set --data --image-size --weights --near-duplicates --sheet --overwrite --format",
    "train": "-s --set --data -o --output-dir --name --seed --epochs -b --batch-size --image-size --backbone --head "
    "--weights --learning-rate --lr --device --precision --tracker --resume --overwrite --dry-run --max-steps "
    "--time-limit --coordinator --num-processes --process-id --fail-under",
    "evaluate": "--split --data -b --batch-size --pixel-limit --label-issues --report --fail-under --image-size "
    "--device --precision --format",
    "predict": "--from-file --null --top-k --min-score -b --batch-size --format -o --output --overwrite --resume "
    "--strict --pixel-limit --image-size --device --precision --explain --show --shard --engine --ray-address "
    "--ray-workers --coverage --probabilities --sort --only --sheet --sort-into --sort-into-by",
    "embed": "-o --output --from-file --null -b --batch-size --overwrite --resume --strict --pixel-limit --image-size "
    "--device --engine",
    "explain": "--class --bands --weights -o --output-dir --from-file --null --pictures -b --batch-size --format "
    "--show --pixel-limit --device",
    "compare": "--heads --seeds --folds --label-issues -s --set --data -o --output-dir --name --epochs -b --batch-size "
    "--image-size --backbone --weights --learning-rate --lr --precision --device --tracker --resume --format",
    "export": "--to --quantize --image-size --data -o --output-dir --overwrite --device --format",
    "upgrade": "-s --set --data --classes --preprocessing --image-size --head -o --output-dir --name --overwrite "
    "--device --format",
    "summarize": "--backbone --head --classes --image-size -s --set --latency --device --format",
    "config show": "-s --set --data -o --output-dir --name --seed --epochs -b --batch-size --image-size --backbone "
    "--head --weights --learning-rate --lr --precision --format",
    "config schema": "",
    "runs list": "--format",
    "runs remove": "-o --output-dir -y --yes",
    "weights list": "--format",
    "weights fetch": "-o --output-dir --overwrite",
    "weights add": "--overwrite",
    "weights path": "",
    "doctor": "--device --format",
}
WITHOUT_PROGRESS = ("config show", "config schema", "runs list", "weights list", "weights path")

pytestmark = pytest.mark.usefixtures("empty_folder")


# Help


@pytest.mark.parametrize("command", ALL)
def test_help_lists_every_option(wisesr: CommandLine, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    answer = wisesr(*command.split(), "--help")
    assert (answer.code, answer.err) == (0, "")
    words = set(answer.out.replace(",", " ").replace("/", " ").split())
    wanted = {*OPTIONS[command].split(), "--debug", *(("-q", "--quiet") if command not in WITHOUT_PROGRESS else ())}
    assert not wanted - words
    assert f"Usage: wisesr {command}" in answer.out
    assert "\x1b" not in answer.out


def test_help_lists_every_command_with_a_summary(wisesr: CommandLine) -> None:
    answer = wisesr("--help")
    assert (answer.code, answer.err) == (0, "")
    for name, sentence in COMMANDS.items():
        assert name in answer.out
        assert " ".join(sentence.split()[:4]) in answer.out


def test_every_command_has_a_module_of_the_same_name() -> None:
    folder = Path(sys.modules["wisesr_cli"].__file__ or "").with_name("cli")
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "main", "options", "topics", "words"}
    groups = {path.stem for path in (folder / "groups").glob("*.py")} - {"__init__"}
    assert groups == set(GROUPS)
    assert modules | groups == set(COMMANDS)
    assert not modules & groups


def test_no_arguments_shows_the_help_and_exits_with_2(wisesr: CommandLine) -> None:
    answer = wisesr()
    assert answer.code == 2
    assert "summarize" in answer.out


def test_version_is_one_line(wisesr: CommandLine) -> None:
    answer = wisesr("--version")
    assert (answer.code, answer.out.split()[0], answer.out.count("\n")) == (0, "wisesr", 1)


# Usage and config errors: exit code 2


@pytest.mark.parametrize(
    ("command", "meant"),
    [("evaluat", "evaluate"), ("trian", "train"), ("sumarize", "summarize"), ("Predict", "predict")],
)
def test_an_unknown_command_exits_with_2_and_suggests_the_nearest(
    wisesr: CommandLine, command: str, meant: str
) -> None:
    wisesr(command, "x").refused(2, f"Did you mean '{meant}'?")


def test_an_unknown_subcommand_exits_with_2_and_suggests_the_nearest_or_lists_all(wisesr: CommandLine) -> None:
    wisesr("runs", "remov", "x").refused(2, "Did you mean 'remove'?")
    for word, meant in (("shwo", "Did you mean 'show'?"), ("nothing", "Allowed: show, schema.")):
        wisesr("config", word).refused(2, meant)


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
def test_an_unknown_option_exits_with_2_and_suggests_the_nearest(
    wisesr: CommandLine, command: str, option: str, meant: str
) -> None:
    wisesr(*command.split(), option).refused(2, meant, "--help")


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
        "predict RUN PHOTOS -o out",
        "predict RUN PHOTOS -o out.csv --format jsonl",
        "predict RUN PHOTOS --format parquet",
        "predict RUN PHOTOS --probabilities",
        "predict RUN PHOTOS --sort size",
        "predict RUN PHOTOS --only 100",
        "predict RUN PHOTOS --sort label --shard 0/2",
        "predict RUN PHOTOS --only uncertain=3 --shard 0/2",
        "predict RUN PHOTOS --only uncertain=3 --explain why",
        "predict RUN PHOTOS --sheet look.jpg",
        "predict RUN PHOTOS --sheet missing/look.png",
        "predict RUN PHOTOS --sort-into-by move",
        "predict RUN PHOTOS --sort-into PHOTOS",
        "embed RUN PHOTOS",
        "embed RUN -o out.npz",
        "embed RUN PHOTOS -o out.csv",
        "embed RUN PHOTOS -o missing/out.npz",
        "embed RUN PHOTOS -o out.npz --resume --overwrite",
        "runs remove",
        "runs remove RUN",
        "train RUN",
        "train RUN --dry-run",
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
def test_a_usage_error_exits_with_2_and_prints_one_line(
    wisesr: CommandLine, trained: Trained, photos: Path, line: str
) -> None:
    wisesr.line(line, RUN=trained.run, PHOTOS=photos).refused(2)


def test_a_newline_in_an_argument_does_not_split_the_error_message(wisesr: CommandLine) -> None:
    for line in (["train", "x", "--ev\nil\x1b[31m"], ["ev\nil"], ["train", "x", "--device", "g\npu"]):
        answer = wisesr(*line)
        assert answer.code == 2
        assert "\\n" in answer.error or "\\x0a" in answer.error
        assert "\x1b" not in answer.err


def test_every_config_error_is_one_line_with_file_line_and_key(wisesr: CommandLine, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("schema_version: 1\nmodel:\n  bakbone: VGG16\ntrain:\n  epochs: many\n", encoding="utf-8")
    answer = wisesr("train", config)
    assert (answer.code, answer.out) == (2, "")
    first, second = answer.err.splitlines()
    assert first.startswith(f"wisesr: {config}:3: ")
    assert "Did you mean 'backbone'?" in first
    assert second.startswith(f"wisesr: {config}:5: ")


def test_an_explicit_name_that_is_taken_exits_with_2(wisesr: CommandLine, trained: Trained) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.run.rglob("*")}
    answer = wisesr("train", trained.photos, *QUICK, "-o", trained.run.parent, "--name", trained.run.name)
    answer.failed(2, "--resume", "--overwrite")
    assert {path: path.stat().st_mtime_ns for path in trained.run.rglob("*")} == before


# Data errors: exit code 3


@pytest.mark.parametrize("command", ["train", "check", "init", "config show", "summarize"])
def test_a_missing_folder_exits_with_3(wisesr: CommandLine, command: str) -> None:
    wisesr(*command.split(), "no-such-folder").refused(3, "no-such-folder")


# Run directory errors: exit code 4


@pytest.mark.parametrize("command", ["evaluate", "predict", "embed"])
@pytest.mark.parametrize("run_path", ["missing", "photos", "file.txt", "broken.keras"])
def test_a_path_that_is_not_a_run_exits_with_4(
    wisesr: CommandLine, photos: Path, tmp_path: Path, command: str, run_path: str
) -> None:
    (tmp_path / "file.txt").write_text("text", encoding="utf-8")
    (tmp_path / "broken.keras").write_bytes(b"PK\x03\x04 no archive")
    shutil.copytree(photos, tmp_path / "photos")
    more = {"evaluate": ["--data", photos], "predict": [photos], "embed": [photos, "-o", tmp_path / "out.npz"]}[command]
    wisesr(command, tmp_path / run_path, *more).refused(4, run_path)


# Machine errors: exit code 5


@pytest.mark.parametrize("command", ["train PHOTOS", "evaluate RUN", "predict RUN PHOTOS", "summarize"])
def test_a_missing_gpu_exits_with_5_and_the_install_command(
    wisesr: CommandLine, trained: Trained, photos: Path, command: str
) -> None:
    import tensorflow

    if tensorflow.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    wisesr.line(command, "--device", "gpu", RUN=trained.run, PHOTOS=photos).refused(5, install_line("gpu"))


def test_a_file_in_place_of_the_output_folder_is_a_clean_error(
    wisesr: CommandLine, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    answer = wisesr("train", photos, *SMALL, "-o", tmp_path / "file")
    assert answer.code in {2, 5}
    assert "file" in answer.error


# Missed gates: exit code 7


def test_a_missed_gate_exits_with_7_after_printing_the_result(wisesr: CommandLine, trained: Trained) -> None:
    line = ("evaluate", trained.run, "--format", "json", "--fail-under")
    answer = wisesr(*line, "log_loss=0.0001")
    assert answer.code == 7
    assert answer.data["examples"] == 15
    assert "log_loss" in answer.error
    assert wisesr(*line, "top1_accuracy=0.5").code == 0


def test_train_has_gates_too(wisesr: CommandLine, photos: Path, tmp_path: Path) -> None:
    wisesr(
        "train", photos, *QUICK, "--epochs", "1", "-o", tmp_path, "--fail-under", "log_loss=0", "--name", "g"
    ).failed(7, "log_loss")
    assert (tmp_path / "g" / "best.keras").is_file()


# Debug and bugs


def test_a_traceback_is_shown_only_with_debug(wisesr: CommandLine) -> None:
    assert "Traceback" not in wisesr("train", "nowhere").err
    answer = wisesr("train", "nowhere", "--debug")
    assert answer.code == 3
    assert "Traceback" in answer.err
    assert answer.err.startswith("wisesr: nowhere")


def test_a_traceback_escapes_unprintable_characters(wisesr: CommandLine, tmp_path: Path) -> None:
    answer = wisesr("train", "no\x1b[31m\n\u202e", "--debug")
    assert answer.code == 3
    assert "Traceback" in answer.err
    assert "\x1b" not in answer.err
    assert "\u202e" not in answer.err
    program = "import wisesr_cli.training.checks as c\n"
    program += "def bug(*_, **named): raise KeyError('\\x1b[31m\\u202e')\nc.check_config = bug\n"
    program += "import sys; sys.argv = ['wisesr', 'check', 'photos']\nfrom wisesr_cli.__main__ import main; main()"
    make_photos(tmp_path / "photos", 3)
    bug = fresh(cwd=tmp_path, program=("-c", program))
    assert bug.code == 1
    assert "Traceback" in bug.err
    assert "KeyError" in bug.err
    assert "\x1b" not in bug.err


def test_too_little_memory_exits_with_5(trained: Trained, wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise MemoryError("Unable to allocate 286. GiB")

    monkeypatch.setattr("wisesr_cli.prediction.predict.predict_paths", refuse)
    answer = wisesr("predict", trained.run, trained.photos / "test", "-b", 100_000_000)
    assert answer.code == 5
    assert answer.error == "wisesr: not enough memory: Unable to allocate 286. GiB"


# The backend


def with_tensorflow(code: str, folder: Path) -> Answer:
    """Run a command that needs a backend in a fresh process, with `code` in place of TensorFlow."""
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
def test_a_backend_that_fails_to_load_exits_with_5_and_the_reason(code: str, said: str, tmp_path: Path) -> None:
    answer = with_tensorflow(code, tmp_path).refused(5, said)
    assert "keras.json" not in answer.error


def test_a_backend_bug_is_not_blamed_on_keras_settings(tmp_path: Path) -> None:
    answer = with_tensorflow("raise ValueError('a bug of its own')", tmp_path)
    assert answer.code == 1
    assert "ValueError: a bug of its own" in answer.err
    assert "keras.json" not in answer.err


def test_run_returns_the_exit_code_and_never_exits() -> None:
    assert run(["--version"]) == 0
    assert run(["--no-such-option"]) == 2
