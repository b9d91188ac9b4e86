from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wisesr_cli import files, state
from wisesr_cli.errors import RunError
from wisesr_cli.files import TEMPORARY_PREFIX, replacing, sha256, write_text
from wisesr_cli.state import has_state, read_state, write_state

PROGRESS = {"history": [{"epoch": 1, "loss": 0.1}], "name": "caf\u00e9 \udcff"}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def arrays(seed: int = 0) -> dict[str, dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return {
        "model": {"00000 dense/kernel": generator.normal(size=(3, 2)).astype("float32"), "00001 b": np.zeros(0)},
        "optimizer": {"00000 iterations": np.array(7, "int64")},
    }


def assert_same(found: state.State, seed: int, progress: dict[str, Any] = PROGRESS) -> None:
    assert found.progress == progress
    expected = arrays(seed)
    assert {group: list(values) for group, values in found.arrays.items()} == {g: list(v) for g, v in expected.items()}
    for group, values in expected.items():
        for name, value in values.items():
            assert found.arrays[group][name].dtype == value.dtype
            assert np.array_equal(found.arrays[group][name], value)


def test_replacing_puts_the_whole_file_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    write_text(path, "new\nlines\r\n")
    assert path.read_bytes() == b"new\nlines\r\n"
    assert names(tmp_path) == ["a.txt"]


def test_an_error_while_writing_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:  # noqa: PT012
        temporary.write_text("half", encoding="utf-8")
        raise ZeroDivisionError
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_that_was_never_there_is_not_there_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a.txt") as temporary:  # noqa: PT012
        temporary.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


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
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["a.txt"]


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_state_reads_back_exactly_what_was_written(tmp_path: Path) -> None:
    write_state(tmp_path / "state", 3, arrays(), PROGRESS)
    assert has_state(tmp_path / "state")
    assert_same(read_state(tmp_path / "state"), 0)
    assert names(tmp_path / "state") == ["epoch-000003"]


def test_a_newer_state_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    for epoch in range(12):
        write_state(tmp_path, epoch, arrays(epoch), {"epoch": epoch})
        assert names(tmp_path) == [f"epoch-{epoch:06d}"]
    assert_same(read_state(tmp_path), 11, {"epoch": 11})


def test_a_state_can_be_written_again_and_again_for_one_epoch(tmp_path: Path) -> None:
    for number in range(12):
        write_state(tmp_path, 4, arrays(number), {"number": number})
        assert len(names(tmp_path)) == 1
        assert_same(read_state(tmp_path), number, {"number": number})
    write_state(tmp_path, 5, arrays(5), {})
    assert names(tmp_path) == ["epoch-000005"]


@pytest.mark.parametrize("file", ["model.npz", "optimizer.npz", "progress.json", "manifest.json"])
def test_any_changed_byte_of_any_file_is_an_error_that_names_it(tmp_path: Path, file: str) -> None:
    write_state(tmp_path, 1, arrays(), PROGRESS)
    path = tmp_path / "epoch-000001" / file
    content = path.read_bytes()
    for position in range(0, len(content), max(1, len(content) // 200)):
        changed = bytearray(content)
        changed[position] ^= 1
        path.write_bytes(bytes(changed))
        with pytest.raises(RunError) as caught:
            read_state(tmp_path)
        expected = str(path) if file != "manifest.json" else str(path.parent)
        assert str(caught.value).startswith(expected), position
        assert "\n" not in str(caught.value)
    path.write_bytes(content)
    assert_same(read_state(tmp_path), 0)


@pytest.mark.parametrize("file", ["model.npz", "optimizer.npz", "progress.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "longer", "a folder"])
def test_a_file_that_is_gone_cut_or_longer_is_an_error_that_names_it(tmp_path: Path, file: str, damage: str) -> None:
    write_state(tmp_path, 1, arrays(), PROGRESS)
    path = tmp_path / "epoch-000001" / file
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "longer": content + b" "}[damage])
    with pytest.raises(RunError, match=str(path)):
        read_state(tmp_path)


@pytest.mark.parametrize("text", ["[]", "5", "{}", '{"model.npz": 5}', '{"model.npz": {"size": 1}}', "[" * 5000, "\\"])
def test_a_manifest_of_another_shape_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    write_state(tmp_path, 1, arrays(), PROGRESS)
    path = tmp_path / "epoch-000001" / "manifest.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=str(path)):
        read_state(tmp_path)


def test_arrays_of_python_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    write_state(tmp_path, 1, {"model": {"a": np.array([{}], dtype=object)}}, {})
    with pytest.raises(RunError, match=r"model\.npz: damaged"):
        read_state(tmp_path)


def test_no_state_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    assert not has_state(tmp_path)
    assert not has_state(tmp_path / "gone")
    with pytest.raises(RunError, match=r"no state to resume from.*--overwrite"):
        read_state(tmp_path)


def test_leftovers_of_killed_writes_and_older_states_are_cleaned_up_and_the_user_s_files_stay(tmp_path: Path) -> None:
    write_state(tmp_path, 1, arrays(1), {})
    shutil.copytree(tmp_path / "epoch-000001", tmp_path / "epoch-000000")
    (tmp_path / f"{TEMPORARY_PREFIX}epoch-000002").mkdir()
    (tmp_path / f"{TEMPORARY_PREFIX}epoch-000002" / "model.npz").write_bytes(b"half")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes.txt").touch()
    assert_same(read_state(tmp_path), 1, {})
    write_state(tmp_path, 2, arrays(2), {})
    assert names(tmp_path) == ["epoch-000002", "notes", "notes.txt"]
    assert_same(read_state(tmp_path), 2, {})


@pytest.mark.parametrize("epoch", [2, 1])
def test_at_every_moment_of_a_write_there_is_a_whole_state_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """Stop the write at every call that touches the disk, as a kill would, and read what is there."""
    moment = 0
    seen = set()
    while True:
        folder = tmp_path / str(moment)
        write_state(folder, 1, arrays(1), {"state": 1})
        with monkeypatch.context() as patched:
            calls = stop_at(patched, moment)
            try:
                write_state(folder, epoch, arrays(2), {"state": 2})
            except Killed:
                finished = False
            else:
                finished = True
        found = read_state(folder)
        number = found.progress["state"]
        assert_same(found, number, {"state": number})
        seen.add(number)
        write_state(folder, 3, arrays(3), {"state": 3})
        assert names(folder) == ["epoch-000003"]
        moment += 1
        if finished:
            break
    assert moment > 10
    assert seen == {1, 2}
    assert number == 2
    assert len(calls) < moment


class Killed(BaseException):
    pass


def stop_at(patched: pytest.MonkeyPatch, moment: int) -> list[str]:
    """Make the call with this number, of all that touch the disk, raise instead; a removal stops half-way."""
    calls: list[str] = []

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) > moment:
                if name == "rmtree" and Path(arguments[0]).is_dir():
                    for path in sorted(Path(arguments[0]).iterdir())[:2]:
                        path.unlink()
                raise Killed
            return original(*arguments, **options)

        patched.setattr(owner, name, watched)

    watch(state.np, "savez")
    watch(state.shutil, "rmtree")
    watch(state.json, "dumps")
    watch(state, "flush_to_disk")
    watch(Path, "rename")
    watch(Path, "mkdir")
    watch(Path, "write_text")
    return calls


def test_a_state_is_written_without_pickle_and_with_a_manifest_of_every_file(tmp_path: Path) -> None:
    write_state(tmp_path, 1, arrays(), PROGRESS)
    folder = tmp_path / "epoch-000001"
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert sorted(manifest) == ["model.npz", "optimizer.npz", "progress.json"]
    assert names(folder) == sorted([*manifest, "manifest.json"])
    for name, row in manifest.items():
        assert row == {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
