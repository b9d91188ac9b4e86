"""What `wisesr predict` survives: unreadable images, long lists, odd batches (promises 41, 43 and 44)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Answer, CommandLine, Trained
from predictions import FORMATS, end, names_in, spread, start, stopping_after
from reliability import Seen


@pytest.fixture
def tiny(trained: Trained) -> Path:
    """Return a run whose model takes images of 32 pixels."""
    return trained.run


# 41: unreadable images


@pytest.mark.reliability(41)
@pytest.mark.parametrize("chosen", FORMATS)
def test_one_unreadable_image_exits_with_6_or_3_if_strict_and_writes_every_record(
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
def test_all_unreadable_exits_with_3_and_every_record_and_no_input_with_3_and_none(
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
    """Return a folder with 10,000 and 100,000 images, each in one folder and spread over many, and lists of them."""
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
def test_memory_for_100_000_images_is_at_most_a_tenth_above_that_for_10_000(
    tiny: Path, many: Path, tmp_path: Path, inputs: str, seen: Seen
) -> None:
    few, lots = (peak_memory(tiny, many, count, inputs, tmp_path) for count in (10_000, 100_000))
    seen(f"{inputs}: {few / 1024:.1f} MiB at 10,000, {lots / 1024:.1f} MiB at 100,000: {lots / few:.3f}")
    assert lots <= 1.1 * few


@pytest.mark.slow
@pytest.mark.reliability(43)
@pytest.mark.parametrize("chosen", FORMATS)
def test_a_closed_pipe_exits_silently_with_141(tiny: Path, tmp_path: Path, chosen: str, seen: Seen) -> None:
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
    for photo in photos:  # each path is sent only after the previous record has arrived
        process.stdin.write(f"{photo}\n".encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["path"] == str(photo)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b""), error


# 44: batch size, neighbours, precision


def scores_of(answer: Answer) -> dict[str, list[float]]:
    """Return all scores of every readable image by path, in the order of the labels."""
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
def test_a_resumed_prediction_puts_each_image_in_the_same_row_of_a_batch(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last bits of a score may depend on the row."""
    from wisesr_cli.engines.keras import KerasEngine

    batches: list[np.ndarray[Any, Any]] = []
    logits = KerasEngine.logits
    monkeypatch.setattr(KerasEngine, "logits", lambda self, pixels: (batches.append(pixels), logits(self, pixels))[1])
    photos = sorted((trained.photos / "test").rglob("*.png"))[:10]
    line = ("predict", trained.run, *photos, "--engine", "keras", "-b", "4", "-o", tmp_path / "out.csv")
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
def test_float32_scores_are_identical_again_after_another_precision(
    wisesr: CommandLine, trained: Trained, seen: Seen
) -> None:
    import tensorflow

    photos = sorted((trained.photos / "test").rglob("*.png"))
    line = ("predict", trained.run, *photos, "--engine", "keras", "--format", "json")
    tensorflow.config.experimental.enable_tensor_float_32_execution(True)
    exact = scores_of(wisesr(*line))
    assert not tensorflow.config.experimental.tensor_float_32_execution_enabled()
    mixed = scores_of(wisesr(*line, "--precision", "mixed_bfloat16"))
    assert 0 < largest_change(exact, mixed) < 0.1
    tensorflow.config.experimental.enable_tensor_float_32_execution(True)  # as other code may do meanwhile
    again = scores_of(wisesr(*line))
    assert not tensorflow.config.experimental.tensor_float_32_execution_enabled()
    assert again == exact
    seen(f"TF32 off; mixed_bfloat16 moves scores by {largest_change(exact, mixed):.1e}, and float32 after it by 0")


@pytest.mark.reliability(44)
def test_evaluation_returns_to_float32_after_another_precision(wisesr: CommandLine, tiny: Path, seen: Seen) -> None:
    import tensorflow

    line = ("evaluate", tiny, "--engine", "keras", "--format", "json")
    exact = wisesr(*line).data
    assert wisesr(*line, "--precision", "mixed_bfloat16").data != exact
    assert wisesr(*line).data == exact
    assert not tensorflow.config.experimental.tensor_float_32_execution_enabled()
