from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from permissions import permissions_hold

from wisesr_cli.errors import MachineError, RunError, UsageError
from wisesr_cli.prediction import journal as module
from wisesr_cli.prediction.journal import FIRST_RECORD, Journal, JournalHeader
from wisesr_cli.results.streams import Prediction, ScoredLabel

HEADER = JournalHeader("ab" * 32, {"top_k": 5, "min_score": 0.0})
RECORDS = [
    Prediction(
        "caf\u00e9 \udcff\n.png", "a b", 0.1 + 0.2, (ScoredLabel("a b", 0.1 + 0.2), ScoredLabel("\x1b", 1e-300))
    ),
    Prediction("gone.png", None, None, (), "no such file"),
    Prediction("unsure.png", None, 0.3, (ScoredLabel("a b", 0.3),)),
    Prediction("unsure.png", None, 0.3, (ScoredLabel("a b", 0.3),)),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.partial"


def written(path: Path, records: list[Prediction] = RECORDS) -> bytes:
    """Write a journal as a process killed after its last record leaves it; return its bytes."""
    journal = Journal(path, HEADER)
    journal.start()
    for record in records:
        journal.append(record)
    journal.close()
    return path.read_bytes()


def read(path: Path) -> list[Prediction]:
    journal = Journal(path, HEADER)
    try:
        journal.resume()
        return list(journal.records())
    finally:
        journal.close()


def test_records_read_back_exactly(path: Path) -> None:
    written(path)
    assert read(path) == RECORDS


def test_a_journal_resumed_after_partial_lines_equals_an_uninterrupted_one(path: Path) -> None:
    whole = written(path)
    path.unlink()
    written(path, RECORDS[:1])
    for number in (1, 2, 3):
        with path.open("ab") as file:
            file.write(b"12345678 {half a li")
        journal = Journal(path, HEADER)
        journal.resume()
        assert list(journal.records()) == RECORDS[:number]
        journal.append(RECORDS[number])
        journal.close()
    assert path.read_bytes() == whole


def test_a_journal_truncated_anywhere_yields_its_complete_records(path: Path) -> None:
    whole = written(path)
    for length in range(1, len(whole) + 1):
        path.write_bytes(whole[:length])
        expected = max(0, whole[:length].count(b"\n") + 1 - FIRST_RECORD)
        assert read(path) == RECORDS[:expected], length
        assert path.exists() == (expected > 0)


@given(st.data())
def test_a_changed_byte_is_detected_and_reported_with_its_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("journal") / "out.partial"
    whole = written(path)
    position = data.draw(st.integers(0, len(whole) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != whole[position]))
    path.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
    line = whole[:position].count(b"\n") + 1
    found, refusal = None, None
    try:
        found = read(path)
    except (UsageError, RunError) as error:
        refusal = error
    named = re.search(r"partial:([0-9]+): damaged", str(refusal))
    if isinstance(refusal, UsageError):
        assert line == 1
        assert "is in the way" in str(refusal)
    elif refusal is not None:
        # A changed line feed merges two lines; a changed last one leaves an unfinished line.
        assert named is not None
        assert int(named[1]) == line
    else:
        last_line_feed = position == len(whole) - 1
        assert found == (RECORDS[:-1] if last_line_feed else RECORDS)
        assert last_line_feed or line == 1  # the process id does not affect the records


@pytest.mark.parametrize("damage", ["lost", "doubled", "swapped", "of another journal"])
def test_a_lost_duplicated_swapped_or_foreign_line_is_detected(path: Path, damage: str) -> None:
    lines = written(path).splitlines(keepends=True)
    path.unlink()
    foreign = written(path, [RECORDS[1], RECORDS[0]]).splitlines(keepends=True)
    damaged = {
        "lost": [*lines[:3], *lines[4:]],
        "doubled": [*lines[:4], lines[3], *lines[4:]],
        "swapped": [*lines[:2], lines[3], lines[2], *lines[4:]],
        "of another journal": [*lines[:3], foreign[2], *lines[4:]],
    }[damage]
    path.write_bytes(b"".join(damaged))
    with pytest.raises(RunError, match=r"out\.partial:[3-5]: damaged"):
        read(path)
    assert path.read_bytes() == b"".join(damaged)


@pytest.mark.parametrize(
    "content", [b"", b"a download of somebody else", b"\0" * 99, b"wisesr journal 2, process          1\n"]
)
def test_a_foreign_file_is_rejected_and_left_unchanged(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"out\.partial: is in the way"):
        Journal(path, HEADER)
    assert path.read_bytes() == content


def test_a_second_process_is_rejected_with_the_pid_of_the_first_until_that_exits(path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom wisesr_cli.prediction.journal import Journal, JournalHeader\n"
        "journal = Journal(Path(sys.argv[1]), JournalHeader('', {}))\njournal.start()\nprint(flush=True)\ninput()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "\n"
    held = path.read_bytes()
    with pytest.raises(MachineError, match=rf"in use by another wisesr \(pid {first.pid}\)"):
        Journal(path, HEADER)
    assert path.read_bytes() == held
    first.kill()
    first.communicate()
    assert written(path) != held


def test_a_journal_removed_between_open_and_lock_is_created_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    written(path)
    lock, calls = fcntl.flock, []

    def finished_meanwhile(*arguments: object) -> None:
        if not calls:
            path.unlink()
        calls.append(arguments)
        lock(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", finished_meanwhile)
    journal = Journal(path, HEADER)
    assert os.path.samestat(os.fstat(journal._file.fileno()), path.stat())
    journal.close()
    assert len(calls) == 2


def test_a_record_cut_short_by_a_full_disk_is_dropped_and_others_are_kept(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(path, RECORDS[:2])
    journal = Journal(path, HEADER)
    journal.resume()

    def full(file: object, content: bytes) -> None:
        os.write(journal._file.fileno(), content[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(MachineError, match=r"out\.partial: the disk is full"):
        journal.append(RECORDS[2])
    monkeypatch.undo()
    journal.close()
    assert read(path) == RECORDS[:2]


def test_a_journal_is_never_empty_even_after_a_kill(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Journal(path, HEADER)
    content = path.read_bytes()
    assert content
    opened._file.close()  # as a kill does
    assert read(path) == []
    written(path)
    started = Journal(path, HEADER)
    monkeypatch.setattr(module, "_write", lambda file, content: None)
    started.start()
    started._file.close()
    monkeypatch.undo()
    assert path.read_bytes() == content
    assert read(path) == []


def test_a_journal_deleted_while_open_can_still_be_read_and_closed(path: Path) -> None:
    written(path)
    journal = Journal(path, HEADER)
    journal.resume()
    path.unlink()
    assert list(journal.records()) == RECORDS
    journal.close()
    journal = Journal(path, HEADER)
    journal.start()
    path.unlink()
    journal.close()
    assert not path.exists()


def test_close_leaves_a_file_that_replaced_the_journal(path: Path) -> None:
    journal = Journal(path, HEADER)
    journal.start()
    path.rename(path.with_name("moved"))
    path.write_bytes(b"mine")
    journal.close()
    assert path.read_bytes() == b"mine"


def test_close_does_not_raise_if_the_journal_cannot_be_removed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    journal = Journal(folder / "out.partial", HEADER)
    journal.start()
    folder.chmod(0o500)
    with permissions_hold():
        journal.close()
    folder.chmod(0o700)
    assert read(folder / "out.partial") == []


def test_records_may_be_read_while_others_are_appended(path: Path) -> None:
    journal = Journal(path, HEADER)
    journal.start()
    journal.append(RECORDS[0])
    reading = journal.records()
    assert next(reading) == RECORDS[0]
    journal.append(RECORDS[1])
    journal.close()
    assert read(path) == RECORDS[:2]
