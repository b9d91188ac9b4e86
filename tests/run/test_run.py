from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_states import make_run

from wisesr_cli.config.reader import load_config, parse_set
from wisesr_cli.errors import RunError
from wisesr_cli.results.training import EpochResult
from wisesr_cli.run.folders import check_kinds
from wisesr_cli.run.located import locate
from wisesr_cli.run.names import CLASSES, SPLITS
from wisesr_cli.run.records import write_rows
from wisesr_cli.run.run import Run, stored_config

NAMES = st.text(st.characters() | st.characters(categories=["Cs", "Cc"]) | st.sampled_from("'=+-@\\\n\t\",\r"))


@given(st.lists(st.tuples(NAMES, NAMES, st.sampled_from(["train", "validation", "test"])), max_size=5))
def test_splits_survive_a_round_trip_with_any_names(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    run = Run(tmp_path_factory.getbasetemp() / "splits")
    run.path.mkdir(exist_ok=True)
    write_rows(run.path / "splits.csv", ("path", "label", "split"), rows)
    assert run.read_splits() == rows
    text = (run.path / "splits.csv").read_bytes().decode("utf-8")
    assert text.count("\n") == len(rows) + 1
    assert not any(line.startswith(("=", "+", "-", "@", "\t")) for line in text.splitlines())


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"path,label,split\na,b\n", r":2: damaged: 2 columns, expected 3"), (b"\xff\xfe", "cannot be read"),
     (b"p,l,s\n" + b"x" * 200_000 + b",a,train\n", "damaged")],
)  # fmt: skip
def test_a_damaged_splits_file_is_an_error_that_names_it(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "splits.csv").write_bytes(content)
    with pytest.raises(RunError, match=rf"splits\.csv.*{reason}|splits\.csv{reason}"):
        Run(tmp_path).read_splits()


@pytest.mark.parametrize("content", ["5", '{"a": 1}', "[1]", "[", "", "[" * 5000])
def test_damaged_classes_are_an_error_that_names_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "classes.json").write_text(content, encoding="utf-8")
    with pytest.raises(RunError, match=r"classes\.json"):
        Run(tmp_path).read_classes()


def test_files_written_at_the_start_can_be_read_back(tmp_path: Path) -> None:
    config = load_config(None, [parse_set("name=x"), parse_set("output_dir=here"), parse_set("seed=3")]).config
    classes = ["no", "[red]x[/red]", "\udcff", "a\nb"]
    rows = [("no/1.png", "no", "train"), ("\udcff/\x1b.png", "\udcff", "validation")]
    run = Run(tmp_path)
    run.write_start(config, classes, rows, {"versions": {}})
    assert run.is_complete
    assert run.read_classes() == tuple(classes)
    assert run.read_splits() == rows
    assert run.load_config() == stored_config(config)
    assert run.load_config().name is None
    assert run.load_config().output_dir.is_absolute()


def test_history_has_a_row_per_epoch_with_numbers_that_read_back_exactly(tmp_path: Path) -> None:
    rows = [
        EpochResult(1, 1, 1e-05, 0.1 + 0.2, 1 / 3, None, None, 2.5),
        EpochResult(2, 1, 1e-3, 1e-300, 1.0, 2.0, 0.5, 1),
    ]
    Run(tmp_path).write_history(rows)
    header, *lines = (tmp_path / "history.csv").read_text(encoding="utf-8").splitlines()
    assert header == "epoch,phase,learning_rate,loss,top1_accuracy,val_loss,val_top1_accuracy,epoch_seconds"
    found = [float(value) if value else None for value in lines[0].split(",")]
    assert found == [1, 1, 1e-05, 0.1 + 0.2, 1 / 3, None, None, 2.5]
    assert len(lines) == 2


def test_a_bare_run_name_suggests_the_run_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "runs" / "photos-wise")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"^photos-wise: no such run directory; you may mean runs/photos-wise$"):
        locate("photos-wise")
    with pytest.raises(RunError, match=r"^photos: no such run directory; wisesr train creates one$"):
        locate("photos")


def test_a_run_is_opened_by_its_folder_or_its_model(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    with pytest.raises(RunError, match=r"no best\.keras yet.*--resume"):
        locate(folder)
    (folder / "best.keras").touch()
    for path in (folder, folder / "best.keras"):
        run = locate(path)
        assert (run.run.path, run.model, run.is_complete) == (folder, folder / "best.keras", True)
    with pytest.raises(RunError, match="no such run directory"):
        locate(tmp_path / "gone")
    with pytest.raises(RunError, match="not a run directory"):
        locate(tmp_path)
    with pytest.raises(RunError, match=r"neither a run directory nor a \.keras file"):
        locate(folder / "config.yaml")


@pytest.mark.parametrize("row", ["../x.png,cat,train", "/etc/x.png,cat,train", "x.png,cow,train", "x.png,cat,dev"])
def test_an_invalid_splits_row_is_an_error_that_names_its_line(tmp_path: Path, row: str) -> None:
    run = Run(tmp_path)
    (tmp_path / "splits.csv").write_text(f"path,label,split\na.png,cat,train\n{row}\n", encoding="utf-8")
    with pytest.raises(RunError, match=r"splits\.csv:3: damaged"):
        run.check_splits(("cat", "dog"), run.read_splits())


def test_an_endless_or_huge_run_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    run = Run(make_run(tmp_path / "run"))
    for name, read in ((CLASSES, run.read_classes), (SPLITS, run.read_splits)):
        path = run.path / name
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.truncate(20 << 30)
        with pytest.raises(RunError, match=rf"{name}: cannot be read: more than"):
            read()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(RunError, match=rf"{name}: cannot be read: not a regular file"):
            read()


@pytest.mark.parametrize("name", ["plots", "tensorboard", "state"])
def test_a_linked_folder_in_a_run_is_rejected(tmp_path: Path, name: str) -> None:
    run = Run(make_run(tmp_path / "run"))
    (tmp_path / "elsewhere").mkdir()
    (run.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match=rf"{name}: is a link"):
        check_kinds(run)
