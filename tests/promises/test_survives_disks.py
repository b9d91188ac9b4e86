"""Full disks, missing folders and missing permissions, end to end: saved work is kept (promise 28)."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CommandLine, environment, fresh
from disk_events import FullDisk, hearing
from quick_trainings import line
from reliability import Seen
from run_states import check_whole, digest, leftovers, progress_of

SUPPORT = Path(__file__).parents[1] / "support"


# 28: the disk


@pytest.mark.slow
@pytest.mark.reliability(28)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("begun", [False, True], ids=["new run", "older checkpoint"])
def test_a_full_disk_at_any_write_exits_with_5_and_keeps_the_older_checkpoint(
    wisesr: CommandLine, photos: Path, tmp_path: Path, seen: Seen, begun: bool
) -> None:
    """Reject everything that takes space from the k-th write on, for every k until the training succeeds."""
    one_epoch = ("-s", "augment=light", "-s", "model.head.dropout=0.2")
    epochs = 2 if begun else 1
    runs = tmp_path / "runs"
    runs.mkdir()
    if begun:
        start = line(photos, tmp_path / "begun", *one_epoch, "--max-steps", "2", epochs=2)
        assert wisesr(*start).code == 0
        assert progress_of(tmp_path / "begun" / "tiny").epoch == 1  # type: ignore[union-attr]
    assert wisesr(*line(photos, tmp_path / "whole", *one_epoch, epochs=epochs)).code == 0
    expected = digest(tmp_path / "whole" / "tiny")
    places, states = [], set()
    for after in range(1000):
        shutil.rmtree(runs / "tiny", ignore_errors=True)
        if begun:
            shutil.copytree(tmp_path / "begun" / "tiny", runs / "tiny")
        disk = FullDisk(after)
        with hearing(runs, disk):
            answer = wisesr(*line(photos, runs, *one_epoch, "--resume", epochs=epochs))
        if disk.refused is None:
            break
        assert answer.code == 5, (disk.refused, answer.err)
        assert "the disk is full" in answer.error, disk.refused
        assert str(runs / "tiny") in answer.error, disk.refused
        progress = check_whole(runs / "tiny")
        states.add(progress.epoch if progress else None)
        assert not begun or progress is not None
        again = wisesr(*line(photos, runs, *one_epoch, "--resume", epochs=epochs))
        assert again.code == 0, (disk.refused, again.err)
        assert digest(runs / "tiny") == expected, disk.refused
        assert leftovers(runs / "tiny") == []
        places.append(disk.refused)
    assert answer.code == 0
    assert len(places) > 20
    assert states == ({1, 2} if begun else {None, 0, 1})
    kind = "with an older checkpoint" if begun else "of a new run"
    seen(f"{len(places)} writes {kind}, refused one after the other: exit 5, resumed: same SHA-256 each time")


@pytest.mark.slow
@pytest.mark.reliability(28)
@pytest.mark.timeout(1200)
def test_a_disk_that_fills_up_within_a_file_exits_with_5_and_keeps_the_checkpoint(
    photos: Path, tmp_path: Path, seen: Seen
) -> None:
    """Run on real file systems of growing sizes, mounted in a separate namespace."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no namespace to mount a small disk in: unshare -rm does not work here")
    command = ["unshare", "-rm", sys.executable, SUPPORT / "full_disk.py", "train", photos, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path), timeout=1100, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    full = [row for row in rows if row["code"] == 5]
    assert len(full) >= 5
    assert {row["code"] for row in rows} == {0, 5}
    for row in rows:
        assert row["resumed"] == 0, row
        assert row["digest"] == rows[-1]["digest"], row
        assert row["leftovers"] == [], row
    assert all("the disk is full" in row["said"] and "Traceback" not in row["said"] for row in full)
    assert len({row["epochs"] for row in full}) >= 2
    seen(f"{len(full)} disks of {full[0]['kilobytes']} to {full[-1]['kilobytes']} kB: exit 5, resumed: same SHA-256")


@pytest.mark.reliability(28)
def test_a_missing_parent_folder_exits_with_5_before_training(
    photos: Path, tmp_path: Path, wisesr: CommandLine, seen: Seen
) -> None:
    answer = wisesr(*line(photos, tmp_path / "gone" / "runs"))
    assert (answer.code, answer.out) == (5, "")
    assert answer.err.splitlines() == [answer.error]
    assert f"{tmp_path / 'gone'}: no such folder; create it first, or give another --output-dir" in answer.error
    assert list(tmp_path.iterdir()) == []
    assert wisesr(*line(photos, tmp_path / "runs", "--max-steps", "1")).code == 0  # the folder itself is created
    seen("missing parent: exit 5 ... no such folder; create it first")


def drop_file_capabilities() -> None:
    """Drop CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, so that permissions apply even if the tests run as root."""
    prctl = ctypes.CDLL(None).prctl
    for capability in (1, 2):
        prctl(24, capability, 0, 0, 0)


@pytest.mark.reliability(28)
@pytest.mark.skipif(sys.platform != "linux", reason="rights are dropped as Linux does it")
@pytest.mark.parametrize("place", ["parent", "runs", "run"])
def test_a_read_only_folder_exits_with_5_before_tensorflow_is_loaded(
    photos: Path, tmp_path: Path, seen: Seen, place: str
) -> None:
    run = tmp_path / "parent" / "runs" / "tiny"
    closed = {"parent": run.parents[1], "runs": run.parent, "run": run}[place]
    closed.mkdir(parents=True)
    if place == "run":
        (run / "classes.json").write_text("[]", encoding="utf-8")
    closed.chmod(0o500)
    program = "\n".join(
        (
            "import sys",
            "from wisesr_cli.__main__ import main",
            "try:",
            "    main()",
            "finally:",
            "    assert 'tensorflow' not in sys.modules",
        )
    )
    answer = fresh(
        *line(photos, run.parent, "--overwrite" if place == "run" else "-q"),
        cwd=tmp_path,
        program=("-c", program),
        preexec_fn=drop_file_capabilities,
    )
    closed.chmod(0o700)
    assert answer.code == 5, answer.err
    assert "permission denied" in answer.error
    assert str(run.parent) in answer.error
    seen(f"read-only {place}: exit 5 ... permission denied")


# Other output files


@pytest.mark.parametrize("place", ["/proc/x.yaml", "/proc/self/x.yaml", "/sys/x.yaml"])
def test_a_place_where_no_file_can_be_created_exits_with_5_and_is_named(
    wisesr: CommandLine, photos: Path, place: str
) -> None:
    if not Path(place).parent.is_dir():
        pytest.skip(f"no {Path(place).parent} here")
    wisesr("init", photos, "-o", place).failed(5, place)


@pytest.mark.parametrize("name", ["a" * 250 + ".yaml", "a." + "yaml" * 63 + "x"])
def test_a_name_of_255_bytes_can_be_written_and_a_longer_one_is_an_error(
    wisesr: CommandLine, photos: Path, tmp_path: Path, name: str
) -> None:
    assert len(name) == 255
    assert wisesr("init", photos, "-o", tmp_path / name).code == 0
    assert {path.name for path in tmp_path.iterdir()} == {name, "wisesr.schema.json"}
    answer = wisesr("init", photos, "-o", tmp_path / f"a{name}")
    assert answer.code in {2, 5}
    assert answer.error


def test_a_disk_that_is_full_from_the_start_exits_with_5_and_names_the_folder(
    wisesr: CommandLine, photos: Path, tmp_path: Path
) -> None:
    disk = FullDisk(0)
    with hearing(tmp_path, disk):
        answer = wisesr(*line(photos, tmp_path / "runs"))
    assert disk.refused is not None
    assert disk.refused.startswith("os.mkdir")
    assert answer.code == 5
    assert str(tmp_path / "runs") in answer.error
