"""What `wisesr predict` survives: unreadable images, kills, full disks, long lists, odd batches (lines 41 to 44)."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Answer, CommandLine, Trained, environment, fresh, make_photo, train_small
from interruptions import stopping_after
from permissions import permissions_hold

from wisesr_cli.machine.files import TEMPORARY_PREFIX

FORMATS = ("table", "json", "jsonl", "csv", "markdown")
SUPPORT = Path(__file__).parents[1] / "support"

Seen = Callable[[str], None]


def spread(folder: Path, count: int, *, unreadable: int = 0) -> Path:
    """Make a folder of `count` images, most of them the same few under other names, some of them no images."""
    sources = [make_photo(folder.with_name(f"{folder.name} sources") / f"{n}.png", n % 3, n, (8, 8)) for n in range(12)]
    broken = sources[0].with_name("broken.png")
    broken.write_bytes(sources[0].read_bytes()[:-20])
    folder.mkdir()
    for number in range(count):
        is_broken = unreadable and number % (count // unreadable) == 1
        os.link(broken if is_broken else sources[number % 12], folder / f"{number:06}.png")
    return folder


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(*arguments: object, cwd: Path, program: Sequence[str] = ("-m", "wisesr_cli"), **options: Any) -> Any:
    """Start a fresh `wisesr` and return the process."""
    command = [sys.executable, *program, *map(str, arguments)]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, cwd=cwd, env=environment(cwd), **options)


def end(process: Any) -> tuple[int, str]:
    """Return the exit code of a process that ends by itself, and what it wrote to standard error."""
    error = process.communicate(timeout=120)[1]
    return process.returncode, error.decode()


def wait_until(condition: Callable[[], bool], process: Any) -> bool:
    """Wait until something holds; return whether it does before the process ends."""
    while not condition():
        if process.poll() is not None:
            return condition()
        time.sleep(0.001)
    return True


def journal_records(journal: Path) -> int:
    return max(0, journal.read_bytes().count(b"\n") - 2) if journal.exists() else 0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the run of a model for images of 32 pixels."""
    return train_small(tmp_path_factory.mktemp("tiny")).run


# 41: unreadable images


@pytest.mark.reliability(41)
@pytest.mark.parametrize("chosen", FORMATS)
def test_one_unreadable_image_is_6_and_with_strict_3_with_every_record_written(
    wisesr: CommandLine, tiny: Path, tmp_path: Path, chosen: str, seen: Seen
) -> None:
    photos = spread(tmp_path / "photos", 20, unreadable=1)
    line = ("predict", tiny, photos, "--format", chosen)
    streamed, strict = wisesr(*line), wisesr(*line, "--strict")
    assert (streamed.code, strict.code) == (6, 3)
    assert [f"{number:06}.png" in streamed.out for number in range(20)] == [True] * 20
    assert streamed.out.count("truncated") == 1
    assert strict.out == streamed.out
    assert "1 of 20 images could not be read" in strict.error
    written = wisesr(*line, "-o", tmp_path / "out")
    written_strictly = wisesr(*line, "-o", tmp_path / "strict", "--strict")
    assert (written.code, written_strictly.code) == (6, 3)
    assert "1 of 20 images could not be read" in written_strictly.error
    for name in ("out", "strict"):
        assert (tmp_path / name).read_text(encoding="utf-8") == streamed.out
    assert names_in(tmp_path) == ["out", "photos", "photos sources", "strict"]
    seen(f"20 records, exit {streamed.code}; --strict: exit {strict.code}, in every format, with and without -o")


@pytest.mark.reliability(41)
@pytest.mark.parametrize("chosen", FORMATS)
def test_all_unreadable_is_3_with_every_record_and_no_input_is_3_with_none(
    wisesr: CommandLine, tiny: Path, tmp_path: Path, chosen: str, seen: Seen
) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.png").write_text("no image", encoding="utf-8")
    line = ("predict", tiny, tmp_path / "photos", "--format", chosen)
    streamed, written = wisesr(*line), wisesr(*line, "-o", tmp_path / "out")
    assert (streamed.code, written.code) == (3, 3)
    assert streamed.out.count("not an image") == 3
    assert (tmp_path / "out").read_text(encoding="utf-8") == streamed.out
    assert "3 of 3 images could not be read" in streamed.error
    seen(f"all unreadable: 3 records, exit {streamed.code}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "list").write_text("\n\n", encoding="utf-8")
    before = names_in(tmp_path)
    for inputs in ([tmp_path / "empty"], ["--from-file", tmp_path / "list"], [tmp_path / "empty" / "*.png"]):
        for more in ([], ["-o", tmp_path / "nothing"]):
            answer = wisesr("predict", tiny, *inputs, "--format", chosen, *more)
            assert (answer.code, answer.out) == (3, "")
            assert re.search(r"no image to label|matches no file", answer.error)
    assert names_in(tmp_path) == before
    seen(f"no input: exit {answer.code}")


# 42: killed and resumed

KILLED_IN = (  # a process that is killed where it would call the function of this name
    "import os, signal, sys\n"
    "from wisesr_cli.cli import main as cli\nfrom wisesr_cli.prediction import journal, output\n"
    "{}= lambda self: os.kill(os.getpid(), signal.SIGKILL)\n"
    "sys.exit(cli.run(sys.argv[1:]))\n"
)


@pytest.mark.slow
@pytest.mark.reliability(42)
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("chosen", FORMATS)
def test_killed_again_and_again_and_resumed_the_output_is_that_of_an_uninterrupted_run(
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

    def nothing_but_whole() -> None:
        assert not out.exists() or out.read_bytes() == whole

    for moment in moments:

        def far_enough(moment: int = moment) -> bool:
            nothing_but_whole()
            return journal_records(journal) > moment

        process = start(*line, out, "--resume", cwd=tmp_path)
        assert wait_until(far_enough, process)
        time.sleep(draw.random() / 50)
        process.kill()
        end(process)
        nothing_but_whole()
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
def test_stopped_by_a_signal_while_it_waits_for_paths_it_says_how_to_go_on(
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
    assert last == f"wisesr: stopped by {stop.name}; go on with the same command and --resume"
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
    assert wisesr(*line, tmp_path / "out", "--from-file", tmp_path / "list", "--resume").code == 6
    assert (tmp_path / "out").read_bytes() == (tmp_path / "expected").read_bytes()
    seen(f"{stop.name}: exit {code}, resumed: identical")


SLOW_IMPORT = """
import sys, time
from wisesr_cli.cli import main as cli
from wisesr_cli.machine import keras_start
def slow(*arguments, **options):
    print("importing", file=sys.stderr, flush=True)
    time.sleep(600)
keras_start.start = slow
sys.exit(cli.run(sys.argv[1:]))
"""


@pytest.mark.reliability(42)
@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_signal_ends_a_prediction_at_once_and_it_resumes(
    wisesr: CommandLine, tiny: Path, tmp_path: Path, seen: Seen, numbers: tuple[signal.Signals, signal.Signals]
) -> None:
    photos = spread(tmp_path / "photos", 10)
    line = ("predict", tiny, photos, "--engine", "keras", "--format", "csv", "-o", tmp_path / "out")
    process = start(*line, cwd=tmp_path, program=("-c", SLOW_IMPORT))
    try:
        assert b"importing\n" in process.stderr  # an import is not broken off by the first signal
        process.send_signal(numbers[0])
        time.sleep(0.5)  # two signals at one moment may count as one
        assert process.poll() is None
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
def test_what_stands_before_a_slow_list_is_written_before_the_list_comes(
    wisesr: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    first, second = sorted(spread(tmp_path / "photos", 2).iterdir())
    line = ("predict", tiny, first, "-", "--format", "jsonl", "-o", tmp_path / "out")
    process = start(*line, cwd=tmp_path, stdin=subprocess.PIPE)
    assert wait_until(lambda: journal_records(tmp_path / "out.partial") == 1, process)  # nothing was typed yet
    code, said = end_of(process, f"{second}\n")
    assert code == 0, said
    expected = wisesr("predict", tiny, first, second, "--format", "jsonl").out
    assert (tmp_path / "out").read_text(encoding="utf-8") == expected


@pytest.mark.reliability(42)
def test_an_existing_output_is_2_unless_it_is_to_be_replaced_and_0_when_there_is_nothing_to_resume(
    wisesr: CommandLine, tiny: Path, tmp_path: Path, seen: Seen
) -> None:
    photos, out = spread(tmp_path / "photos", 4), tmp_path / "out"
    line = ("predict", tiny, photos, "--format", "csv", "-o", out)
    out.write_bytes(b"mine")
    answer = wisesr(*line)
    assert (answer.code, answer.out) == (2, "")
    assert "--overwrite" in answer.error
    assert "device" not in answer.err
    seen(f"an output that exists: exit {answer.code}")
    answer = wisesr(*line, "--resume")
    assert answer.code == 0
    assert "exists, and there is no journal beside it: nothing to go on with; replace it with --overwrite" in answer.err
    assert "complete" not in answer.err
    assert out.read_bytes() == b"mine"
    with stopping_after(2):
        assert wisesr(*line, "--overwrite").code == 130
    assert out.read_bytes() == b"mine"
    answer = wisesr(*line)
    assert answer.code == 2
    assert out.read_bytes() == b"mine"
    assert wisesr(*line, "--overwrite").code == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 5
    seen("--overwrite: exit 0, the old one there until the end")


@pytest.mark.reliability(42)
def test_a_journal_that_was_left_is_2_unless_it_is_to_be_used_or_replaced(
    wisesr: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    photos = spread(tmp_path / "photos", 6)
    line = ("predict", tiny, photos, "--format", "csv", "-o", tmp_path / "out")
    with stopping_after(3):
        assert wisesr(*line).code == 130
    left = (tmp_path / "out.partial").read_bytes()
    answer = wisesr(*line)
    assert (answer.code, answer.out) == (2, "")
    assert "--resume" in answer.error
    assert (tmp_path / "out.partial").read_bytes() == left
    answer = wisesr(*line, "--resume")
    assert answer.code == 0
    assert "3 records found in the journal" in answer.err


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
def test_resumed_with_other_options_it_is_4_with_the_difference(
    wisesr: CommandLine, tiny: Path, tmp_path: Path, more: list[str], what: str
) -> None:
    line = ("predict", tiny, spread(tmp_path / "photos", 4), "-o", tmp_path / "out")
    with stopping_after(2):
        assert wisesr(*line).code == 130
    left = (tmp_path / "out.partial").read_bytes()
    answer = wisesr(*line, "--resume", *more)
    assert (answer.code, answer.out) == (4, "")
    assert what in answer.error
    assert "device" not in answer.err  # before TensorFlow is started
    assert (tmp_path / "out.partial").read_bytes() == left
    assert wisesr(*line, "--resume").code == 0


@pytest.mark.reliability(42)
def test_resumed_with_another_model_or_a_damaged_journal_it_is_4_with_file_and_line(
    wisesr: CommandLine, tiny: Path, trained: Trained, tmp_path: Path, seen: Seen
) -> None:
    photos = spread(tmp_path / "photos", 6)
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    with (other / "best.keras").open("ab") as file:
        file.write(b"\n")
    line = (photos, "--format", "jsonl", "-o", tmp_path / "out")
    with stopping_after(4):
        assert wisesr("predict", tiny, *line).code == 130
    answer = wisesr("predict", other, *line, "--resume")
    assert answer.code == 4
    assert "another model" in answer.error
    journal = tmp_path / "out.partial"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"score": 0.', b'"score": 1.')
    journal.write_bytes(b"".join(lines))
    answer = wisesr("predict", tiny, *line, "--resume")
    assert answer.code == 4
    assert f"{journal}:4: damaged" in answer.error
    assert journal.read_bytes() == b"".join(lines)
    assert not (tmp_path / "out").exists()
    seen(f"damaged journal: exit {answer.code}: line 4 named")
    assert wisesr("predict", tiny, *line, "--overwrite").code == 0


@pytest.mark.reliability(42)
@pytest.mark.parametrize("change", ["renamed", "removed", "added in front", "added behind", "damaged"])
def test_inputs_that_changed_between_kill_and_resume_are_4_where_records_exist_for_them(
    wisesr: CommandLine, tiny: Path, tmp_path: Path, change: str
) -> None:
    photos = spread(tmp_path / "photos", 6)
    line = ("predict", tiny, photos, "--format", "jsonl", "-o", tmp_path / "out")
    with stopping_after(4):
        assert wisesr(*line).code == 130
    first = photos / "000001.png"
    match change:
        case "renamed":
            first.rename(photos / "000001b.png")
        case "removed":
            first.unlink()
        case "added in front":
            shutil.copy(first, photos / "000000b.png")
        case "added behind":
            shutil.copy(first, photos / "7.png")
        case "damaged":
            (photos / "000005.png").unlink()
            (photos / "000005.png").write_bytes(b"")
    answer = wisesr(*line, "--resume")
    if change in {"renamed", "removed", "added in front"}:
        assert answer.code == 4
        assert "out.partial:4: the inputs are others than before" in answer.error
        assert not (tmp_path / "out").exists()
    else:
        assert answer.code == (6 if change == "damaged" else 0)
        records = [json.loads(record) for record in (tmp_path / "out").read_text(encoding="utf-8").splitlines()]
        assert [Path(record["path"]).name for record in records] == names_in(photos)


@pytest.mark.reliability(42)
@pytest.mark.parametrize("more", [[], ["--resume"], ["--overwrite"]], ids=["plain", "resume", "overwrite"])
def test_a_second_prediction_into_the_same_file_is_5_with_the_pid_and_the_first_goes_on(
    wisesr: CommandLine, tiny: Path, tmp_path: Path, more: list[str], seen: Seen
) -> None:
    photos = sorted(spread(tmp_path / "photos", 40).iterdir())
    listed = "".join(f"{path}\n" for path in photos)
    line = ("predict", tiny, "--format", "jsonl", "-o", tmp_path / "out")
    first = start(*line, "-", cwd=tmp_path, stdin=subprocess.PIPE)
    first.stdin.write(listed[: len(listed) // 2].encode())
    first.stdin.flush()
    assert wait_until(lambda: journal_records(tmp_path / "out.partial") > 10, first)
    answer = wisesr(*line, *photos, *more)
    assert (answer.code, answer.out) == (5, "")
    assert f"(pid {first.pid})" in answer.error
    code, said = end_of(first, listed[len(listed) // 2 :])
    assert code == 0, said
    assert wisesr("predict", tiny, "--format", "jsonl", *photos).out == (tmp_path / "out").read_text(encoding="utf-8")
    seen(f"a second process: exit {answer.code} with the pid")


def end_of(process: Any, rest: str) -> tuple[int, str]:
    """Write what is left to the standard input of a process, and wait for its end."""
    error = process.communicate(rest.encode(), timeout=120)[1]
    return process.returncode, error.decode()


@pytest.mark.slow
@pytest.mark.reliability(42)
@pytest.mark.parametrize("chosen", FORMATS)
def test_a_disk_that_fills_up_is_5_and_with_more_room_it_goes_on(
    tiny: Path, tmp_path: Path, chosen: str, seen: Seen
) -> None:
    """On real file systems of growing sizes, made in a namespace of their own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no namespace to mount a small disk in: unshare -rm does not work here")
    photos = spread(tmp_path / "photos", 300)
    disk = tmp_path / "disk"
    disk.mkdir()
    script = ["unshare", "-rm", sys.executable, SUPPORT / "full_disk_prediction.py", tiny, photos, chosen, disk]
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
def test_an_output_in_a_folder_without_permission_is_5_before_tensorflow_starts(
    wisesr: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    photos = spread(tmp_path / "photos", 2)
    (tmp_path / "closed").mkdir(mode=0o500)
    with permissions_hold():
        answer = wisesr("predict", tiny, photos, "-o", tmp_path / "closed" / "out")
    assert answer.code == 5
    assert "closed/out.partial: permission denied" in answer.error
    assert "device" not in answer.err


def test_a_name_too_long_for_the_journal_is_5_and_one_just_short_enough_works(
    wisesr: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    photos = spread(tmp_path / "photos", 2)
    for name in ("n" * 248, f"{'n' * 243}.json", "\u732b" * 83):
        answer = wisesr("predict", tiny, photos, "-o", tmp_path / name)
        assert (answer.code, answer.out) == (5, "")
        assert "the name is too long" in answer.error
        assert "device" not in answer.err
    for name in ("n" * 247, f"n.{'n' * 245}"):
        assert wisesr("predict", tiny, photos, "--format", "json", "-o", tmp_path / name).code == 0
        assert len(json.loads((tmp_path / name).read_text(encoding="utf-8"))) == 2


def test_an_image_or_a_list_that_is_read_is_never_written_over(wisesr: CommandLine, tiny: Path, tmp_path: Path) -> None:
    photos = spread(tmp_path / "photos", 3)
    photo, listed = photos / "000001.png", tmp_path / "list"
    listed.write_text(f"{photo}\n", encoding="utf-8")
    before = photo.read_bytes(), listed.read_bytes()
    for line in ([photos, "-o", photo], ["--from-file", listed, "-o", listed], ["--from-file", listed, "-o", photo]):
        answer = wisesr("predict", tiny, *line, "--overwrite")
        assert (answer.code, answer.out) == (2, "")
        assert "choose another name with -o" in answer.error
    assert (photo.read_bytes(), listed.read_bytes()) == before
    assert names_in(photos) == ["000000.png", "000001.png", "000002.png"]


def test_a_pattern_that_matches_the_journal_does_not_label_it(wisesr: CommandLine, tiny: Path, tmp_path: Path) -> None:
    photos = spread(tmp_path / "photos", 5)
    line = ("predict", tiny, photos / "*", "--format", "csv", "-o", photos / "0.csv")
    with stopping_after(2):
        assert wisesr(*line).code == 130
    assert wisesr(*line, "--resume").code == 0
    assert len((photos / "0.csv").read_text(encoding="utf-8").splitlines()) == 6


# 43: long lists, closed pipes

MEASURE = (
    "import sys\n"
    "from wisesr_cli.cli import main as cli\n"
    "code = cli.run(sys.argv[1:])\n"
    "peak = [line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
    "print('peak', *peak, file=sys.stderr)\n"
    "sys.exit(code)\n"
)
INPUTS = ("one folder", "many folders", "standard input", "into a file", "a pattern")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with 10,000 and 100,000 images, in one folder and spread over many, and lists of them."""
    base = tmp_path_factory.mktemp("many")
    for count in (10_000, 100_000):
        one = spread(base / f"one{count}", count)
        names = names_in(one)
        for number, name in enumerate(names):
            folder = base / f"many{count}" / f"{number // 1000:03}"
            if number % 1000 == 0:
                folder.mkdir(parents=True)
            os.link(one / name, folder / name)
        lines = "".join(f"{one / name}\n" for name in names)
        (base / f"list{count}").write_text(lines, encoding="utf-8")
    return base


def peak_memory(tiny: Path, base: Path, count: int, inputs: str, folder: Path) -> int:
    """Return the peak memory, in kB, of a fresh process that labels `count` images."""
    typed = {
        "one folder": [base / f"one{count}"],
        "many folders": [base / f"many{count}"],
        "standard input": ["-"],
        "into a file": [base / f"one{count}", "-o", folder / f"{count}.json"],
        "a pattern": [base / f"many{count}" / "**" / "*.png"],
    }[inputs]
    form = "json" if inputs == "into a file" else "jsonl"
    line = ("predict", tiny, *typed, "--format", form, "-q", "-b", "64")
    with (base / f"list{count}").open("rb") as listed, (folder / f"{count}.out").open("wb") as out:
        process = start(*line, cwd=folder, program=("-c", MEASURE), stdin=listed, stdout=out)
        error = process.communicate(timeout=900)[1].decode()
    assert process.returncode == 0, error
    records = (folder / f"{count}.json" if inputs == "into a file" else folder / f"{count}.out").read_bytes()
    assert records.count(b'"path"') == count
    return int(error.split()[-1])


@pytest.mark.slow
@pytest.mark.reliability(43)
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("inputs", INPUTS)
def test_memory_at_a_hundred_thousand_images_is_within_a_tenth_of_that_at_ten_thousand(
    tiny: Path, many: Path, tmp_path: Path, inputs: str, seen: Seen
) -> None:
    few, lots = (peak_memory(tiny, many, count, inputs, tmp_path) for count in (10_000, 100_000))
    seen(f"{inputs}: {few / 1024:.1f} MiB at 10,000, {lots / 1024:.1f} MiB at 100,000: {lots / few:.3f}")
    assert lots <= 1.1 * few


@pytest.mark.slow
@pytest.mark.reliability(43)
@pytest.mark.parametrize("chosen", FORMATS)
def test_a_reader_that_leaves_after_a_line_gives_a_silent_141(
    tiny: Path, tmp_path: Path, chosen: str, seen: Seen
) -> None:
    photos = spread(tmp_path / "photos", 3_000)
    process = start("predict", tiny, photos, "--format", chosen, "-q", cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    code, said = end(process)
    assert (code, said) == (141, "")
    seen(f"{chosen} | head -1: exit {code}, {len(said)} bytes on standard error")


@pytest.mark.reliability(43)
def test_records_appear_while_the_list_of_paths_is_still_being_written(tiny: Path, tmp_path: Path) -> None:
    photos = sorted(spread(tmp_path / "photos", 3).iterdir())
    process = start(
        "predict", tiny, "-", "--format", "jsonl", cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    for photo in photos:  # each is written only when the record of the one before has come
        process.stdin.write(f"{photo}\n".encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["path"] == str(photo)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b""), error


# 44: batch size, neighbours, precision


def scores_of(answer: Answer) -> dict[str, list[float]]:
    """Return all scores of every image that could be read, by name, in the order of the labels."""
    assert answer.code in {0, 6}, answer.err
    readable = [record for record in answer.data if record["error"] is None]
    by_label = {record["path"]: {top["label"]: top["score"] for top in record["top"]} for record in readable}
    return {path: [scores[label] for label in sorted(scores)] for path, scores in by_label.items()}


def largest_change(before: dict[str, list[float]], after: dict[str, list[float]]) -> float:
    assert after
    return max(np.abs(np.subtract(before[path], scores)).max() for path, scores in after.items())


def changes(wisesr: CommandLine, run: Path, photos: Sequence[Path], broken: Path) -> dict[str, float]:
    """Return how far the scores of a run move with batch size, order, neighbours and unreadable files."""
    line = ("predict", run, "--format", "json")
    expected = scores_of(wisesr(*line, *photos))
    assert len({tuple(scores) for scores in expected.values()}) == len(photos)
    between = [path for photo in photos for path in (broken, photo, photos[0])]
    others = {
        **{f"{photo.parent.name} alone": (photo,) for photo in photos[::5]},
        **{f"batches of {size}": (*photos, "-b", size) for size in (1, 2, 7, 64)},
        "in another order": photos[::-1],
        "between unreadable ones": (*between, "-b", 7),
    }
    return {name: largest_change(expected, scores_of(wisesr(*line, *typed))) for name, typed in others.items()}


@pytest.mark.reliability(44)
@pytest.mark.parametrize("head", ["wise", pytest.param("flatten", marks=pytest.mark.slow)])
def test_neither_batch_size_nor_order_nor_neighbours_change_a_score(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, head: str, seen: Seen
) -> None:
    run = trained.run
    if head != "wise":
        line = ("train", trained.photos, "--backbone", "compact", "--head", head, "--image-size", "64", "--epochs", "3")
        assert wisesr(*line, "-b", "12", "-o", tmp_path, "--name", "other").code == 0
        run = tmp_path / "other"
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    found = changes(wisesr, run, sorted((trained.photos / "test").rglob("*.png")), broken)
    most = max(found, key=lambda name: found[name])
    assert found[most] <= 1e-5, found
    seen(f"{head}: largest change of a score: {found[most]:.1e} ({most})")


@pytest.mark.reliability(44)
def test_an_image_always_stands_in_the_row_of_its_number(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a process before did, so that arithmetic that depends on the row gives the same bits."""
    from wisesr_cli.engines.keras import KerasEngine

    batches: list[np.ndarray[Any, Any]] = []
    logits = KerasEngine.logits
    monkeypatch.setattr(KerasEngine, "logits", lambda self, pixels: (batches.append(pixels), logits(self, pixels))[1])
    photos = sorted((trained.photos / "test").rglob("*.png"))[:10]
    line = ("predict", trained.run, *photos, "--engine", "keras", "-b", "4", "-o", tmp_path / "out")
    with stopping_after(7):
        wisesr(*line)
    batches.clear()
    assert wisesr(*line, "--resume").code == 0
    resumed = batches.copy()
    batches.clear()
    assert wisesr(*line, "--overwrite").code == 0
    assert [batch.shape for batch in batches] == [(4, 32, 32, 3)] * 3
    row_of = {pixels.tobytes(): row for batch in batches for row, pixels in enumerate(batch) if pixels.any()}
    assert len(row_of) == 10
    found = {pixels.tobytes(): row for batch in resumed for row, pixels in enumerate(batch) if pixels.any()}
    assert len(found) == 3
    assert all(row_of[pixels] == row for pixels, row in found.items())


@pytest.mark.reliability(44)
def test_float32_is_exact_again_after_another_precision(wisesr: CommandLine, trained: Trained, seen: Seen) -> None:
    import tensorflow

    photos = sorted((trained.photos / "test").rglob("*.png"))
    line = ("predict", trained.run, *photos, "--engine", "keras", "--format", "json")
    tensorflow.config.experimental.enable_tensor_float_32_execution(True)
    exact = scores_of(wisesr(*line))
    assert not tensorflow.config.experimental.tensor_float_32_execution_enabled()
    mixed = scores_of(wisesr(*line, "--precision", "mixed_bfloat16"))
    assert 0 < largest_change(exact, mixed) < 0.1
    tensorflow.config.experimental.enable_tensor_float_32_execution(True)  # whatever somebody else did meanwhile
    again = scores_of(wisesr(*line))
    assert not tensorflow.config.experimental.tensor_float_32_execution_enabled()
    assert again == exact
    seen(f"TF32 off; mixed_bfloat16 moves scores by {largest_change(exact, mixed):.1e}, and float32 after it by 0")


@pytest.mark.reliability(44)
def test_evaluation_is_in_float32_again_after_another_precision(wisesr: CommandLine, tiny: Path, seen: Seen) -> None:
    import tensorflow

    line = ("evaluate", tiny, "--engine", "keras", "--format", "json")
    exact = wisesr(*line).data
    assert wisesr(*line, "--precision", "mixed_bfloat16").data != exact
    assert wisesr(*line).data == exact
    assert not tensorflow.config.experimental.tensor_float_32_execution_enabled()
