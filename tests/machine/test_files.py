"""A file is replaced as a whole or not at all, and what keeps it from being written is named."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from wisesr_cli.errors import MachineError
from wisesr_cli.machine import files
from wisesr_cli.machine.files import TEMPORARY_PREFIX, make_folder, replacing, sha256, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_replacing_puts_the_whole_file_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "new\nlines\r\n")
    assert path.read_bytes() == b"new\nlines\r\n"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("before", ["old", None])
@pytest.mark.parametrize("raised", [ZeroDivisionError, KeyboardInterrupt, TypeError])
def test_an_error_while_writing_passes_through_and_leaves_what_was_there_and_no_temporary(
    tmp_path: Path, raised: type[BaseException], before: str | None
) -> None:
    path = tmp_path / "a.txt"
    if before is not None:
        write_text(path, before)
    with pytest.raises(raised), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half", encoding="utf-8")
        raise raised
    assert before is None or path.read_text(encoding="utf-8") == before
    assert names(tmp_path) == ([] if before is None else ["a.txt"])


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        assert temporary.parent == path.parent
        assert temporary.name.startswith(TEMPORARY_PREFIX)
        assert temporary.suffix == ".txt"
        assert path.read_text(encoding="utf-8") == "old"


def test_a_full_disk_on_the_last_flush_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(MachineError, match=r"a\.txt: the disk is full"):
        write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT, errno.EFBIG, errno.ENOSPC, errno.ENAMETOOLONG, 9999])
def test_whatever_keeps_a_file_from_being_written_is_the_machine_s_and_named(tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(MachineError, match=str(path)) as caught, replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half", encoding="utf-8")
        raise OSError(number, os.strerror(number), "/somewhere/else")
    assert "\n" not in str(caught.value)
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "folder", tmp_path / ("a" * 256)):
        with pytest.raises(MachineError, match=str(path)):
            make_folder(path)


@pytest.mark.parametrize("name", ["a" * 255, "a." + "b" * 253, "\u00e9" * 127, "." + "a" * 254])
def test_a_name_as_long_as_names_may_be_is_written(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "text")
    assert names(tmp_path) == [name]
    with pytest.raises(MachineError, match="the name is too long"):
        write_text(tmp_path / f"aaa{name}", "text")
    assert names(tmp_path) == [name]


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
