"""The record of written files: which are ours, which are the user's, and what a forged record cannot do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wisesr_cli.machine.files import sha256, write_text
from wisesr_cli.run.written import Written, recording


@pytest.fixture
def written(tmp_path: Path) -> Written:
    record = Written(tmp_path / "run")
    record.folder.mkdir()
    record.begin()
    return record


def put(written: Written, name: str, text: str = "ours", *, grows: bool = False) -> Path:
    path = written.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    written.add(path, grows=grows)
    return path


def test_a_file_is_ours_as_long_as_it_is_unchanged(written: Written) -> None:
    path, other = put(written, "plots/a.png"), written.folder / "plots" / "b.png"
    other.write_text("ours", encoding="utf-8")
    assert (written.has(path), written.has(other)) == (True, False)
    assert written.files() == [path]
    for text in ("mine", "ours and mine", "our", ""):
        path.write_text(text, encoding="utf-8")
        assert not written.has(path), text
    put(written, "plots/a.png", "ours again")
    assert written.has(path)
    path.write_text("ours", encoding="utf-8")  # what an earlier command wrote there is ours, too
    assert written.has(path)


def test_only_a_growing_file_may_be_appended_to(written: Written) -> None:
    log = put(written, "tensorboard/train/log", "header", grows=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(" and rows")
    assert written.has(log)
    log.write_text("HEADER and rows", encoding="utf-8")
    assert not written.has(log)


def test_every_atomic_write_in_the_folder_is_recorded_before_the_file_exists(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, outside, killed = written.folder / "a.json", tmp_path / "b.json", written.folder / "c.json"
    with recording(written.folder) as same:
        write_text(inside, "ours")
        write_text(outside, "elsewhere")
        monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            write_text(killed, "half")
    assert same.files() == [inside]
    killed.write_text("half", encoding="utf-8")
    assert written.has(killed)
    monkeypatch.undo()
    write_text(written.folder / "d.json", "after the block")
    assert not written.has(written.folder / "d.json")


def test_a_folder_is_recorded_file_by_file_under_its_new_name(written: Written) -> None:
    made = written.folder / "temporary"
    (made / "variables").mkdir(parents=True)
    (made / "variables" / "index").write_text("x", encoding="utf-8")
    written.add(written.folder / "export" / "saved_model", made)
    (written.folder / "export").mkdir()
    made.rename(written.folder / "export" / "saved_model")
    assert written.files() == [written.folder / "export" / "saved_model" / "variables" / "index"]


def test_partial_and_damaged_lines_are_ignored_without_losing_others(written: Written) -> None:
    first = put(written, "a.txt")
    with written.path.open("ab") as file:
        file.write(b'{"path": "b.txt", "bytes": 4, "sha')
    last = put(written, "c.txt")
    with written.path.open("ab") as file:
        file.write(b'\xff\n[]\n{"path": 3}\n{"path": "d.txt", "bytes": "4", "sha256": 5}\n')
    assert written.files() == [first, last]


@pytest.mark.reliability(49)
@pytest.mark.parametrize("name", ["../mine.txt", "{outside}", "link/mine.txt", "linked.txt", "a/../../mine.txt"])
def test_a_forged_record_cannot_name_files_outside_its_folder(written: Written, tmp_path: Path, name: str) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine", encoding="utf-8")
    (written.folder / "link").symlink_to(tmp_path)
    (written.folder / "linked.txt").symlink_to(mine)
    row = {"path": name.format(outside=mine), "bytes": 4, "sha256": sha256(mine)}
    written.path.write_text(json.dumps(row), encoding="utf-8")
    assert written.files() == []


def test_a_run_of_an_earlier_version_gets_no_record(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    Written(tmp_path).add(tmp_path / "a.txt")
    Written(tmp_path).add_source(tmp_path / "evaluate-test", "split test")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert Written(tmp_path).source_of(tmp_path / "evaluate-test") is None
