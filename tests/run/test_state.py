from __future__ import annotations

import io
import json
import os
import shutil
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wisesr_cli.errors import RunError
from wisesr_cli.machine.files import TEMPORARY_PREFIX, sha256
from wisesr_cli.run import state
from wisesr_cli.run.state import has_state, read_state, write_state

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


def test_a_state_reads_back_exactly_as_it_was_written(tmp_path: Path) -> None:
    write_state(tmp_path / "state", 3, arrays(), PROGRESS)
    assert has_state(tmp_path / "state")
    assert_same(read_state(tmp_path / "state"), 0)
    assert names(tmp_path / "state") == ["epoch-000003"]


def test_a_newer_state_replaces_the_previous_one(tmp_path: Path) -> None:
    for epoch in range(12):
        write_state(tmp_path, epoch, arrays(epoch), {"epoch": epoch})
        assert names(tmp_path) == [f"epoch-{epoch:06d}"]
    assert_same(read_state(tmp_path), 11, {"epoch": 11})


def test_a_state_can_be_rewritten_repeatedly_for_one_epoch(tmp_path: Path) -> None:
    for number in range(12):
        write_state(tmp_path, 4, arrays(number), {"number": number})
        assert len(names(tmp_path)) == 1
        assert_same(read_state(tmp_path), number, {"number": number})
    write_state(tmp_path, 5, arrays(5), {})
    assert names(tmp_path) == ["epoch-000005"]


@pytest.mark.reliability(31)
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
def test_a_missing_truncated_or_extended_file_is_an_error_that_names_it(tmp_path: Path, file: str, damage: str) -> None:
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


def forge(folder: Path, name: str, content: bytes) -> Path:
    """Replace a file of the only state in a folder, and update its manifest to match."""
    newest = next(folder.iterdir())
    path, manifest = newest / name, newest / "manifest.json"
    path.write_bytes(content)
    rows = json.loads(manifest.read_text(encoding="utf-8"))
    rows[name] = {"size": len(content), "sha256": sha256(path)}
    manifest.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


def npy(header: str, values: bytes = b"") -> bytes:
    """Return an array file with a custom header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin-1") + values


def npz(content: bytes, *, compression: int = zipfile.ZIP_STORED, times: int = 1) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as archive:
        warnings.simplefilter("ignore")  # about duplicate names
        for _ in range(times):
            archive.writestr("a.npy", content)
    return buffer.getvalue()


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
SMALL = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }", b"1234")

HOSTILE = {
    "a shape without data": npz(npy(HUGE, bytes(64))),
    "a negative shape": npz(npy(HUGE.replace("(1000000, 1000000)", "(-4, -4)"), bytes(64))),
    "a compressed gigabyte": npz(npy(HUGE.replace("(1000000, 1000000)", "(1 << 20,)"), bytes(1 << 22)), compression=8),
    "objects": npz(npy(HUGE.replace("<f4", "|O").replace("(1000000, 1000000)", "(1,)"), bytes(8))),
    "a nonsensical header": npz(npy("-" * 5000 + "1")),
    "an unterminated header": npz(b"\x93NUMPY\x01\x00\xff\xff{"),
    "another version": npz(b"\x93NUMPY\x02\x00" + SMALL[8:]),
    "not an array": npz(b""),
    "a duplicate name": npz(SMALL, times=2),
    "not an archive": b"PK\x03\x04",
    "an encrypted member": npz(SMALL).replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
}


@pytest.mark.reliability(31)
@pytest.mark.parametrize("case", HOSTILE)
def test_forged_arrays_are_rejected_before_memory_is_allocated(tmp_path: Path, case: str) -> None:
    write_state(tmp_path, 1, arrays(), PROGRESS)
    path = forge(tmp_path, "model.npz", HOSTILE[case])
    tracemalloc.start()
    try:
        with pytest.raises(RunError, match=r"model\.npz: damaged") as caught:
            read_state(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_member_claiming_to_be_larger_than_its_archive_is_rejected(tmp_path: Path) -> None:
    write_state(tmp_path, 1, arrays(), PROGRESS)
    content = bytearray(npz(SMALL))
    directory = content.index(b"PK\x01\x02")
    content[directory + 20 : directory + 28] = (1 << 30).to_bytes(4, "little") * 2  # sizes, packed and unpacked
    forge(tmp_path, "model.npz", bytes(content))
    with pytest.raises(RunError, match=r"model\.npz: damaged: its members are larger than the file"):
        read_state(tmp_path)


def test_an_oversized_progress_record_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_state(tmp_path, 1, arrays(), PROGRESS)
    monkeypatch.setattr(state, "MAX_JSON_BYTES", 1000)
    forge(tmp_path, "progress.json", b"[" + b" " * 1000)
    with pytest.raises(RunError, match=r"progress\.json: damaged or missing: more than 1,000 bytes"):
        read_state(tmp_path)


def test_a_manifest_that_names_files_elsewhere_is_rejected(tmp_path: Path) -> None:
    write_state(tmp_path / "state", 1, arrays(), PROGRESS)
    (tmp_path / "secret.npz").write_bytes(npz(SMALL))
    forge(tmp_path / "state", "../../secret.npz", npz(SMALL))
    with pytest.raises(RunError, match=r"manifest\.json: damaged"):
        read_state(tmp_path / "state")


def test_a_missing_group_or_record_is_an_error_that_names_its_file(tmp_path: Path) -> None:
    write_state(tmp_path, 1, arrays(), {"progress": 5})
    found = read_state(tmp_path)
    assert found.group("model").keys() == arrays()["model"].keys()
    with pytest.raises(RunError, match=r"epoch-000001/random\.npz: has no random: .*--overwrite"):
        found.group("random")
    for name in ("progress", "circumstances"):
        with pytest.raises(RunError, match=rf"epoch-000001/progress\.json: has no {name}: .*--overwrite"):
            found.record(name)


def test_folders_of_the_user_are_not_taken_for_states(tmp_path: Path) -> None:
    for name in ("epoch-notes", "epoch-1", "epoch-000009.txt", "epochs"):
        (tmp_path / name).mkdir()
    assert not has_state(tmp_path)
    write_state(tmp_path, 1, arrays(), PROGRESS)
    write_state(tmp_path, 2, arrays(), PROGRESS)
    assert_same(read_state(tmp_path), 0)
    assert names(tmp_path) == ["epoch-000002", "epoch-000009.txt", "epoch-1", "epoch-notes", "epochs"]


@pytest.mark.parametrize("text", ["[]", "5", "{}", '{"model.npz": 5}', '{"model.npz": {"size": 1}}', "[" * 5000, "\\"])
def test_a_malformed_manifest_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    write_state(tmp_path, 1, arrays(), PROGRESS)
    path = tmp_path / "epoch-000001" / "manifest.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=str(path)):
        read_state(tmp_path)


def test_arrays_of_python_objects_are_not_read(tmp_path: Path) -> None:
    write_state(tmp_path, 1, {"model": {"a": np.array([{}], dtype=object)}}, {})
    with pytest.raises(RunError, match=r"model\.npz: damaged"):
        read_state(tmp_path)


def test_a_missing_state_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    assert not has_state(tmp_path)
    assert not has_state(tmp_path / "gone")
    with pytest.raises(RunError, match=r"no state to resume from.*--overwrite"):
        read_state(tmp_path)


def test_leftovers_and_older_states_are_removed_and_files_of_the_user_are_kept(tmp_path: Path) -> None:
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


@pytest.mark.reliability(25)
@pytest.mark.parametrize("epoch", [2, 1])
def test_a_complete_state_exists_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Abort the write at each call that touches the disk, as a kill would, and read what is there."""
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
    """Make the disk call with this number raise instead; a removal stops halfway."""
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


def test_a_state_has_a_manifest_of_every_file(tmp_path: Path) -> None:
    write_state(tmp_path, 1, arrays(), PROGRESS)
    folder = tmp_path / "epoch-000001"
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert sorted(manifest) == ["model.npz", "optimizer.npz", "progress.json"]
    assert names(folder) == sorted([*manifest, "manifest.json"])
    for name, row in manifest.items():
        assert row == {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)}


def test_a_pipe_or_link_in_place_of_an_older_state_is_removed_without_hanging(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    folder = tmp_path / "state"
    folder.mkdir()
    os.mkfifo(folder / ".wisesr-epoch-000007")
    (folder / "epoch-000000").symlink_to(tmp_path / "mine")
    write_state(folder, 1, {}, {})
    assert [path.name for path in folder.iterdir()] == ["epoch-000001"]
    assert (tmp_path / "mine").is_dir()
