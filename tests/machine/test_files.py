"""A file is replaced completely or not at all, and errors while writing name it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from wisesr_cli.errors import MachineError
from wisesr_cli.machine import caches, files
from wisesr_cli.machine.files import TEMPORARY_PREFIX, make_folder, make_private, replacing, sha256, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_replacing_writes_the_whole_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "new\nlines\r\n")
    assert path.read_bytes() == b"new\nlines\r\n"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.reliability(48)
def test_a_temporary_file_is_always_new_and_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    for _ in range(2):
        with replacing(tmp_path / "a.txt") as temporary:
            assert temporary.stat().st_size == 0
            seen.add(temporary.name)
    assert len(seen) == 2
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    (tmp_path / f"{TEMPORARY_PREFIX}guessed.txt").symlink_to(tmp_path / "victim")
    with pytest.raises(MachineError):
        write_text(tmp_path / "b.txt", "mine")
    assert names(tmp_path) == [f"{TEMPORARY_PREFIX}guessed.txt", "a.txt"]


def test_a_private_folder_is_one_that_nobody_else_can_enter(tmp_path: Path) -> None:
    assert make_private(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert make_private(tmp_path / "new")
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "linked").symlink_to(tmp_path / "new")
    (tmp_path / "file").touch()
    assert not any(make_private(tmp_path / name) for name in ("open", "linked", "file"))


@pytest.mark.reliability(48)
@pytest.mark.parametrize("is_taken", [False, True])
def test_caches_are_in_a_private_folder_if_there_is_no_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_taken: bool
) -> None:
    for name in ("WISESR_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    caches._private_folder.cache_clear()
    expected = tmp_path / f"wisesr-{os.geteuid()}"
    if is_taken:
        expected.mkdir(mode=0o777)
    found = caches.cache_dir()
    assert (found == expected) != is_taken
    assert found.stat().st_mode & 0o777 == 0o700
    assert caches.cache_dir() == found
    caches._private_folder.cache_clear()


@pytest.mark.parametrize("before", ["old", None])
@pytest.mark.parametrize("raised", [ZeroDivisionError, KeyboardInterrupt, TypeError])
def test_an_error_while_writing_propagates_and_leaves_the_old_file_and_no_temporary(
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


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
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
def test_any_os_error_while_writing_raises_machine_error_with_the_path(tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(MachineError, match=str(path)) as caught, replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half", encoding="utf-8")
        raise OSError(number, os.strerror(number), "/somewhere/else")
    assert "\n" not in str(caught.value)
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_created_raises_machine_error_with_the_path(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "folder", tmp_path / ("a" * 256)):
        with pytest.raises(MachineError, match=str(path)):
            make_folder(path)


@pytest.mark.parametrize("name", ["a" * 255, "a." + "b" * 253, "\u00e9" * 127, "." + "a" * 254])
def test_a_name_of_maximum_length_is_written_and_a_longer_one_rejected(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "text")
    assert names(tmp_path) == [name]
    with pytest.raises(MachineError, match="the name is too long"):
        write_text(tmp_path / f"aaa{name}", "text")
    assert names(tmp_path) == [name]


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
