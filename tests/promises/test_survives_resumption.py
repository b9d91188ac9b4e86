"""What a prediction into a file survives: kills, signals, full disks, and changed inputs (promise 42)."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import TELLS_OF_SIGNALS, CommandLine, Trained, environment, fresh
from permissions import permissions_hold
from predictions import FORMATS, end, journal_records, names_in, spread, start, stopping_after, wait_until
from reliability import Seen

from wisesr_cli.machine.files import TEMPORARY_PREFIX

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
def tiny(trained: Trained) -> Path:
    """Return a run whose model takes images of 32 pixels."""
    return trained.run


# 42: killed and resumed

KILLED_IN = (  # a process that is killed when it calls the function of this name
    "import os, signal, sys\n"
    "from wisesr_cli.cli import main as cli\nfrom wisesr_cli.prediction import journal, output\n"
    "{}= lambda self: os.kill(os.getpid(), signal.SIGKILL)\n"
    "sys.exit(cli.run(sys.argv[1:]))\n"
)


@pytest.mark.slow
@pytest.mark.reliability(42)
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("chosen", FORMATS)
def test_a_prediction_killed_again_and_again_writes_the_same_bytes(
    tiny: Path, tmp_path: Path, chosen: str, seen: Seen
) -> None:
    count, kills = 2_000, 6
    photos = spread(tmp_path / "photos", count, unreadable=40)
    line = ("predict", tiny, photos, "--format", chosen, "-q", "-o")
    expected = fresh(*line, tmp_path / "expected", cwd=tmp_path)
    assert expected.code == 6, expected.err
    whole = (tmp_path / "expected").read_bytes()
    out, journal = tmp_path / "out", tmp_path / "out.partial"
    draw = random.Random(chosen)
    moments = sorted(draw.randrange(count) for _ in range(kills))

    def assert_absent_or_complete() -> None:
        assert not out.exists() or out.read_bytes() == whole

    for moment in moments:

        def far_enough(moment: int = moment) -> bool:
            assert_absent_or_complete()
            return journal_records(journal) > moment

        process = start(*line, out, "--resume", cwd=tmp_path)
        assert wait_until(far_enough, process)
        time.sleep(draw.random() / 50)
        process.kill()
        end(process)
        assert_absent_or_complete()
    reached = journal_records(journal)

    process = start(*line, out, "--resume", cwd=tmp_path, program=("-c", KILLED_IN.format("output.Renderer.end")))
    assert end(process)[0] == -signal.SIGKILL
    assert not out.exists()
    assert any(name.startswith(TEMPORARY_PREFIX) for name in names_in(tmp_path))
    process = start(*line, out, "--resume", cwd=tmp_path, program=("-c", KILLED_IN.format("journal.Journal.remove")))
    assert end(process)[0] == -signal.SIGKILL
    assert out.read_bytes() == whole
    assert journal.exists()
    answer = fresh(*line, out, "--resume", cwd=tmp_path)
    assert answer.code == 6, answer.err
    assert out.read_bytes() == whole
    assert not [name for name in names_in(tmp_path) if name.startswith((TEMPORARY_PREFIX, "out."))]
    seen(f"{chosen}: {kills + 2} kills, at records up to {reached:,}, rendering, cleaning up: identical")


@pytest.mark.reliability(42)
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=lambda stop: stop.name)
def test_a_signal_while_waiting_for_paths_tells_how_to_resume(
    wisesr: CommandLine, tiny: Path, tmp_path: Path, stop: signal.Signals, seen: Seen
) -> None:
    photos = sorted(spread(tmp_path / "photos", 70, unreadable=2).iterdir())
    (tmp_path / "list").write_text("".join(f"{path}\n" for path in photos), encoding="utf-8")
    line = ("predict", tiny, "--format", "json", "-o")
    assert wisesr(*line, tmp_path / "expected", "--from-file", tmp_path / "list").code == 6
    journal = tmp_path / "out.partial"
    process = start(*line, tmp_path / "out", "-", cwd=tmp_path, stdin=subprocess.PIPE)
    process.stdin.write("".join(f"{path}\n" for path in photos[:45]).encode())
    process.stdin.flush()
    assert wait_until(lambda: journal_records(journal) == 45, process)  # before the list ends, or a batch is full
    process.send_signal(stop)
    process.wait(60)
    code, said = end(process)
    assert code == 128 + stop
    last = said.splitlines()[-1]
    assert last == f"wisesr: stopped by {stop.name}; repeat the command with --resume"
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
    assert wisesr(*line, tmp_path / "out", "--from-file", tmp_path / "list", "--resume").code == 6
    assert (tmp_path / "out").read_bytes() == (tmp_path / "expected").read_bytes()
    seen(f"{stop.name}: exit {code}, resumed: identical")


SLOW_IMPORT = f"""
import sys, time
from wisesr_cli.cli import main as cli
from wisesr_cli.machine import keras_start
def slow(*arguments, **options):
    print("importing", file=sys.stderr, flush=True)
    time.sleep(600)
keras_start.start = slow
{TELLS_OF_SIGNALS}
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.reliability(42)
@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_signal_ends_a_prediction_at_once_and_it_can_be_resumed(
    wisesr: CommandLine, tiny: Path, tmp_path: Path, seen: Seen, numbers: tuple[signal.Signals, signal.Signals]
) -> None:
    photos = spread(tmp_path / "photos", 10)
    line = ("predict", tiny, photos, "--engine", "keras", "--format", "csv", "-o", tmp_path / "out")
    process = start(*line, cwd=tmp_path, program=("-c", SLOW_IMPORT))
    try:
        assert b"importing\n" in process.stderr  # an import is not interrupted by the first signal
        process.send_signal(numbers[0])
        assert b"received\n" in process.stderr  # two signals at the same moment may be merged into one
        process.send_signal(numbers[1])
        code, said = end(process)
    finally:
        process.kill()
        process.wait()
    assert code == 128 + numbers[1]
    assert "Traceback" not in said
    assert names_in(tmp_path) == ["out.partial", "photos", "photos sources"]
    assert wisesr(*line, "--resume").code == 0
    assert len((tmp_path / "out").read_text(encoding="utf-8").splitlines()) == 11
    seen(f"{numbers[0].name}, then {numbers[1].name} inside an import: exit {code}, resumed")


@pytest.mark.reliability(42)
def test_images_before_a_slow_list_are_recorded_at_once(wisesr: CommandLine, tiny: Path, tmp_path: Path) -> None:
    first, second = sorted(spread(tmp_path / "photos", 2).iterdir())
    line = ("predict", tiny, first, "-", "--format", "jsonl", "-o", tmp_path / "out")
    process = start(*line, cwd=tmp_path, stdin=subprocess.PIPE)
    assert wait_until(lambda: journal_records(tmp_path / "out.partial") == 1, process)  # before any path was sent
    code, said = end(process, f"{second}\n")
    assert code == 0, said
    expected = wisesr("predict", tiny, first, second, "--format", "jsonl").out
    assert (tmp_path / "out").read_text(encoding="utf-8") == expected


@pytest.mark.reliability(42)
def test_an_existing_output_or_journal_is_a_usage_error(
    wisesr: CommandLine, tiny: Path, tmp_path: Path, seen: Seen
) -> None:
    photos, out = spread(tmp_path / "photos", 4), tmp_path / "out"
    line = ("predict", tiny, photos, "--format", "csv", "-o", out)
    out.write_bytes(b"mine")
    answer = wisesr(*line).refused(2, "--overwrite")
    assert "device" not in answer.err
    seen(f"an existing output: exit {answer.code}")
    answer = wisesr(*line, "--resume").worked()
    assert "exists, and there is no journal next to it: nothing to resume; replace it with --overwrite" in answer.err
    assert "complete" not in answer.err
    assert out.read_bytes() == b"mine"
    with stopping_after(2):
        assert wisesr(*line, "--overwrite").code == 130
    assert out.read_bytes() == b"mine"
    left = (tmp_path / "out.partial").read_bytes()
    assert wisesr(*line).code == 2
    assert out.read_bytes() == b"mine"
    out.unlink()
    answer = wisesr(*line).refused(2, "--resume")
    assert (tmp_path / "out.partial").read_bytes() == left
    answer = wisesr(*line, "--resume").worked()
    assert "2 records found in the journal" in answer.err
    assert wisesr(*line, "--overwrite").code == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 5
    seen("--overwrite: exit 0, the old output kept until the end; a leftover journal: exit 2")


@pytest.mark.reliability(42)
@pytest.mark.parametrize(
    ("more", "what"),
    [
        (["--top-k", "1"], "top_k was 5 and is 1"),
        (["-b", "7"], "batch_size was 32 and is 7"),
        (["--precision", "mixed_bfloat16"], "precision was float32 and is mixed_bfloat16"),
        (["--min-score", "0.5"], "min_score was 0.0 and is 0.5"),
    ],
)
def test_resume_with_other_options_exits_with_4_and_names_the_difference(
    wisesr: CommandLine, tiny: Path, tmp_path: Path, more: list[str], what: str
) -> None:
    line = ("predict", tiny, spread(tmp_path / "photos", 4), "--format", "jsonl", "-o", tmp_path / "out")
    with stopping_after(2):
        assert wisesr(*line).code == 130
    left = (tmp_path / "out.partial").read_bytes()
    answer = wisesr(*line, "--resume", *more).refused(4, what)
    assert "device" not in answer.err  # before TensorFlow is started
    assert (tmp_path / "out.partial").read_bytes() == left
    assert wisesr(*line, "--resume").code == 0


@pytest.mark.reliability(42)
def test_resume_rejects_another_model_and_names_the_damaged_line_of_a_journal(
    wisesr: CommandLine, tiny: Path, tmp_path: Path, seen: Seen
) -> None:
    photos = spread(tmp_path / "photos", 6)
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    with (other / "best.keras").open("ab") as file:
        file.write(b"\n")
    line = (photos, "--format", "jsonl", "-o", tmp_path / "out")
    with stopping_after(4):
        assert wisesr("predict", tiny, *line).code == 130
    answer = wisesr("predict", other, *line, "--resume").failed(4, "another model")
    journal = tmp_path / "out.partial"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"score": 0.', b'"score": 1.')
    journal.write_bytes(b"".join(lines))
    answer = wisesr("predict", tiny, *line, "--resume").failed(4, f"{journal}:4: damaged")
    assert journal.read_bytes() == b"".join(lines)
    assert not (tmp_path / "out").exists()
    seen(f"damaged journal: exit {answer.code}: line 4 named")
    assert wisesr("predict", tiny, *line, "--overwrite").code == 0


@pytest.mark.reliability(42)
@pytest.mark.parametrize("change", ["renamed", "removed", "added in front", "added behind", "damaged"])
def test_resume_rejects_changes_to_inputs_that_already_have_records(
    wisesr: CommandLine, tiny: Path, tmp_path: Path, change: str
) -> None:
    photos = spread(tmp_path / "photos", 6)
    line = ("predict", tiny, photos, "--format", "jsonl", "-o", tmp_path / "out")
    with stopping_after(4):
        assert wisesr(*line).code == 130
    first, last = photos / "000001.png", photos / "000005.png"
    changes: dict[str, Callable[[], object]] = {
        "renamed": lambda: first.rename(photos / "000001b.png"),
        "removed": first.unlink,
        "added in front": lambda: shutil.copy(first, photos / "000000b.png"),
        "added behind": lambda: shutil.copy(first, photos / "7.png"),
        "damaged": lambda: (last.unlink(), last.write_bytes(b"")),
    }
    changes[change]()
    answer = wisesr(*line, "--resume")
    if change in {"renamed", "removed", "added in front"}:
        assert answer.code == 4
        assert "out.partial:4: the inputs have changed" in answer.error
        assert not (tmp_path / "out").exists()
    else:
        assert answer.code == (6 if change == "damaged" else 0)
        records = [json.loads(record) for record in (tmp_path / "out").read_text(encoding="utf-8").splitlines()]
        assert [Path(record["path"]).name for record in records] == names_in(photos)


@pytest.mark.reliability(42)
@pytest.mark.parametrize("more", [[], ["--resume"], ["--overwrite"]], ids=["plain", "resume", "overwrite"])
def test_a_second_prediction_into_the_same_file_exits_with_5_and_the_first_continues(
    wisesr: CommandLine, tiny: Path, tmp_path: Path, more: list[str], seen: Seen
) -> None:
    photos = sorted(spread(tmp_path / "photos", 40).iterdir())
    listed = "".join(f"{path}\n" for path in photos)
    line = ("predict", tiny, "--format", "jsonl", "-o", tmp_path / "out")
    first = start(*line, "-", cwd=tmp_path, stdin=subprocess.PIPE)
    first.stdin.write(listed[: len(listed) // 2].encode())
    first.stdin.flush()
    assert wait_until(lambda: journal_records(tmp_path / "out.partial") > 10, first)
    answer = wisesr(*line, *photos, *more).refused(5, f"(pid {first.pid})")
    code, said = end(first, listed[len(listed) // 2 :])
    assert code == 0, said
    assert wisesr("predict", tiny, "--format", "jsonl", *photos).out == (tmp_path / "out").read_text(encoding="utf-8")
    seen(f"a second process: exit {answer.code} with the pid")


@pytest.mark.slow
@pytest.mark.reliability(42)
@pytest.mark.parametrize("chosen", FORMATS)
def test_a_full_disk_exits_with_5_and_can_be_resumed(tiny: Path, tmp_path: Path, chosen: str, seen: Seen) -> None:
    """Run on real file systems of growing sizes, mounted in a separate namespace."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no namespace to mount a small disk in: unshare -rm does not work here")
    photos = spread(tmp_path / "photos", 300)
    disk = tmp_path / "disk"
    disk.mkdir()
    script = ["unshare", "-rm", sys.executable, SUPPORT / "full_disk.py", "predict", tiny, photos, chosen, disk]
    done = subprocess.run(script, capture_output=True, text=True, env=environment(tmp_path), timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    closed, *rows = json.loads(done.stdout.splitlines()[-1])
    assert closed["code"] == 5
    assert "read-only" in closed["said"]
    assert "device" not in closed["said"]  # before TensorFlow is started
    full = [row for row in rows if row["code"] == 5]
    in_journal = [row for row in full if row["journal_lines"] < 302]
    rendering = [row for row in full if row["journal_lines"] == 302]
    assert in_journal
    assert rendering
    assert {row["code"] for row in rows} == {0, 5}
    for row in full:
        assert "the disk is full" in row["said"]
        assert "Traceback" not in row["said"]
        assert row["left"] in ([], ["out.partial"]), row
    for row in rows:
        assert (row["resumed"], row["left_then"]) == (0, ["out"]), row
        assert row["digest"] == rows[-1]["digest"]
    seen(
        f"{chosen}: {len(in_journal)} disks full in the journal, {len(rendering)} while rendering: exit 5; resumed: "
        f"identical; read-only: exit {closed['code']}"
    )


@pytest.mark.reliability(42)
def test_an_output_in_a_read_only_folder_exits_with_5_before_tensorflow_starts(
    wisesr: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    photos = spread(tmp_path / "photos", 2)
    (tmp_path / "closed").mkdir(mode=0o500)
    with permissions_hold():
        answer = wisesr("predict", tiny, photos, "-o", tmp_path / "closed" / "out.csv")
    assert answer.code == 5
    assert "closed/out.csv.partial: permission denied" in answer.error
    assert "device" not in answer.err


def test_a_name_too_long_only_for_the_journal_exits_with_5(wisesr: CommandLine, tiny: Path, tmp_path: Path) -> None:
    photos = spread(tmp_path / "photos", 2)
    for name in ("n" * 248, f"{'n' * 243}.json", "\u732b" * 83):
        answer = wisesr("predict", tiny, photos, "--format", "json", "-o", tmp_path / name).refused(
            5, "the name is too long"
        )
        assert "device" not in answer.err
    for name in ("n" * 247, f"n.{'n' * 245}"):
        assert wisesr("predict", tiny, photos, "--format", "json", "-o", tmp_path / name).code == 0
        assert len(json.loads((tmp_path / name).read_text(encoding="utf-8"))) == 2


def test_an_input_image_or_list_is_never_overwritten(wisesr: CommandLine, tiny: Path, tmp_path: Path) -> None:
    photos = spread(tmp_path / "photos", 3)
    photo, listed = photos / "000001.png", tmp_path / "list"
    listed.write_text(f"{photo}\n", encoding="utf-8")
    link = tmp_path / "link"
    link.symlink_to("list")
    before = photo.read_bytes(), listed.read_bytes()
    listing = ["--from-file", listed, "-o"]
    for line in ([photos, "-o", photo], [*listing, listed], [*listing, link], [*listing, photo]):
        wisesr("predict", tiny, *line, "--format", "csv", "--overwrite").refused(2, "choose another name with -o")
    assert (photo.read_bytes(), listed.read_bytes()) == before
    assert names_in(photos) == ["000000.png", "000001.png", "000002.png"]


def test_a_pattern_that_matches_the_journal_does_not_include_it(
    wisesr: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    photos = spread(tmp_path / "photos", 5)
    line = ("predict", tiny, photos / "*", "--format", "csv", "-o", photos / "0.csv")
    with stopping_after(2):
        assert wisesr(*line).code == 130
    assert wisesr(*line, "--resume").code == 0
    assert len((photos / "0.csv").read_text(encoding="utf-8").splitlines()) == 6
