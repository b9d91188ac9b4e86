"""`wisesr predict` from the command line and from Python: sorting, filtering, contact sheets, sorting into folders."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from command_line import REPOSITORY, CommandLine, Trained, environment, make_photos, rows_of, snapshot
from PIL import Image
from predictions import stopping_after

import wisesr_cli
from wisesr_cli.errors import UsageError
from wisesr_cli.listening import Silent
from wisesr_cli.prediction.placing import Placing
from wisesr_cli.results.streams import Prediction
from wisesr_cli.text import parse_csv_cell

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture
def photos() -> Path:
    """Create 15 images of three classes and a broken one in the current folder."""
    folder = make_photos(Path("photos"), 5, first_seed=100)
    (folder / "red" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def records_of(wisesr: CommandLine, trained: Trained, *more: object) -> list[dict[str, object]]:
    return wisesr("predict", trained.run, "photos", "--format", "jsonl", *more).records


@pytest.mark.parametrize("sort", ["uncertain", "path", "label", "score"])
def test_sort_only_changes_the_order_of_the_records(
    wisesr: CommandLine, trained: Trained, photos: Path, sort: str
) -> None:
    plain = records_of(wisesr, trained)
    expected = {
        "path": sorted(plain, key=lambda row: row["path"]),
        "label": sorted(plain, key=lambda row: (row["error"] or "", row["label"] or "", -(row["score"] or 0))),
        "score": sorted(plain, key=lambda row: -(row["score"] or 0)),
        "uncertain": sorted(plain, key=lambda row: 1 if row["margin"] is None else row["margin"]),
    }[sort]
    assert records_of(wisesr, trained, "--sort", sort) == expected
    found = list(wisesr_cli.predict(trained.run, ["photos"], sort=sort))
    assert [json.loads(json.dumps(record.to_json())) for record in found] == expected
    answer = wisesr("predict", trained.run, "photos", "--sort", sort, "-o", "out.csv")
    assert answer.code == 6
    assert [parse_csv_cell(row["path"]) for row in rows_of(Path("out.csv"))] == [row["path"] for row in expected]
    assert names() == ["out.csv", "photos"]


@pytest.mark.parametrize("chosen", [["--sort", "score"], ["--only", "uncertain=7"]])
@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "md", "parquet"])
def test_a_sorted_file_resumed_after_a_stop_is_byte_identical(
    wisesr: CommandLine, trained: Trained, photos: Path, suffix: str, chosen: list[str]
) -> None:
    line = ("predict", trained.run, photos, *chosen, "--coverage", "0.9", "-o")
    assert wisesr(*line, f"whole.{suffix}").code == 6
    with stopping_after(9):
        assert wisesr(*line, f"out.{suffix}").code == 130
    assert not Path(f"out.{suffix}").exists()
    assert wisesr(*line, f"out.{suffix}", "--resume").code == 6
    assert Path(f"out.{suffix}").read_bytes() == Path(f"whole.{suffix}").read_bytes()


def test_the_api_yields_all_records_in_order_when_resuming_a_sorted_output(trained: Trained, photos: Path) -> None:
    whole = list(wisesr_cli.predict(trained.run, ["photos"], sort="score"))
    with stopping_after(9), pytest.raises(KeyboardInterrupt):
        list(wisesr_cli.predict(trained.run, ["photos"], output="out.jsonl"))
    options = {"output": "out.jsonl", "resume": True, "sort": "score"}
    assert list(wisesr_cli.predict(trained.run, ["photos"], **options)) == whole
    written = [json.loads(line)["path"] for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert written == [record.path for record in whole]


def test_sorted_output_can_be_resumed_after_the_caller_stops_iterating(trained: Trained, photos: Path) -> None:
    records = wisesr_cli.predict(trained.run, ["photos"], sort="path", output="out.jsonl", sheet="look.png")
    next(records)
    records.close()
    assert names() == ["out.jsonl.partial", "photos"]
    resumed = wisesr_cli.predict(
        trained.run, ["photos"], sort="path", output="out.jsonl", sheet="look.png", resume=True
    )
    assert len(list(resumed)) == 16
    assert names() == ["look.png", "out.jsonl", "photos"]


def test_only_selects_the_most_uncertain_images_and_counts_all(
    wisesr: CommandLine, trained: Trained, photos: Path
) -> None:
    plain = [row for row in records_of(wisesr, trained) if row["error"] is None]
    nearest = sorted(plain, key=lambda row: row["margin"])[:4]  # type: ignore[arg-type, return-value]
    assert records_of(wisesr, trained, "--only", "uncertain=4") == nearest
    by_path = sorted(nearest, key=lambda row: str(row["path"]))
    assert records_of(wisesr, trained, "--only", "uncertain=4", "--sort", "path") == by_path
    answer = wisesr("predict", trained.run, photos, "--only", "uncertain=4", "-o", "out.md")
    assert answer.said("1 of 16 images could not be read")
    assert len(Path("out.md").read_text(encoding="utf-8").splitlines()) == 6
    answer = wisesr("predict", trained.run, photos / "blue", "--only", "uncertain=4", "-o", "blue.csv")
    assert answer.said("5 images labelled, 4 of them given: blue.csv")


def test_label_counts_are_reported_at_the_end(wisesr: CommandLine, trained: Trained, photos: Path) -> None:
    plain = records_of(wisesr, trained)
    answer = wisesr("predict", trained.run, photos, "--format", "jsonl")
    rows = {line.split()[0]: line.split()[1:3] for line in answer.err.splitlines() if "%" in line}
    counts = Counter(str(row["label"]) for row in plain if row["label"])
    assert {label: rows[label][0] for label in counts} == {label: str(count) for label, count in counts.items()}
    assert rows["(unreadable)"] == ["1", "6.2"]
    withheld = wisesr("predict", trained.run, photos, "--format", "jsonl", "--min-score", "1")
    assert withheld.said("(no label)")[0].split()[2] == "15"
    assert "Labels" not in wisesr("predict", trained.run, photos, "-q").err
    assert "Labels" not in wisesr("predict", trained.run, photos / "blue" / "00.png").err


def test_probabilities_cover_every_class(wisesr: CommandLine, trained: Trained, photos: Path) -> None:
    for row in records_of(wisesr, trained, "--probabilities", "--top-k", "3"):
        top = {scored["label"]: scored["score"] for scored in row["top"]}  # type: ignore[attr-defined]
        assert row.get("probabilities", {}) == top
    text = wisesr("predict", trained.run, photos, "--format", "csv", "--probabilities").out
    header, first, *_ = csv.reader(io.StringIO(text))
    assert header[-3:] == ["probability:blue", "probability:green", "probability:red"]
    assert sum(map(float, first[-3:])) == pytest.approx(1)


def test_a_file_with_other_columns_is_not_resumed(wisesr: CommandLine, trained: Trained, photos: Path) -> None:
    with stopping_after(3):
        wisesr("predict", trained.run, photos, "-o", "out.csv")
    more = ("--resume", "--probabilities")
    wisesr("predict", trained.run, photos, "-o", "out.csv", *more).refused(4, "probabilities was not given and is True")


def test_the_sheet_shows_the_images_in_the_order_of_their_records(
    wisesr: CommandLine, trained: Trained, photos: Path
) -> None:
    answer = wisesr("predict", trained.run, photos, "--sheet", "look.png", "--sort", "label", "--format", "jsonl")
    assert answer.code == 6
    assert answer.said("contact sheet: ")[0].endswith("look.png (15 of 15 images, sorted: label)")
    pixels = np.asarray(Image.open("look.png").convert("RGB"))
    labels = [row["label"] for row in answer.records if row["error"] is None]
    cells = [pixels[8 + 218 * (n // 6) :, 8 + 196 * (n % 6) :][20:170, 20:170].mean((0, 1)) for n in range(15)]
    strongest = [("red", "green", "blue")[int(cell.argmax())] for cell in cells]
    truth = [str(row["path"]).split("/")[1] for row in answer.records if row["error"] is None]
    assert strongest == truth
    assert labels == sorted(labels)


def test_a_sheet_is_not_overwritten_by_default_and_is_never_an_input(
    wisesr: CommandLine, trained: Trained, photos: Path
) -> None:
    sheet = photos / "look.png"
    assert wisesr("predict", trained.run, photos, "--sheet", sheet).code == 6
    before = sheet.read_bytes()
    wisesr("predict", trained.run, photos, "--sheet", sheet).refused(2, "exists; give another --sheet")
    again = wisesr("predict", trained.run, photos, "--sheet", sheet, "--overwrite", "--format", "jsonl")
    assert len(again.records) == 16
    assert sheet.read_bytes() == before
    answer = wisesr("predict", trained.run, photos / "red" / "bad.png", "--sheet", "none.png")
    assert answer.said("no image could be read: ")
    assert not Path("none.png").exists()


def sorted_as(records: list[dict[str, object]]) -> dict[str, bytes]:
    """Return the files that the sorted folder should hold; images are named 00 to 04 in every class."""
    found: dict[str, bytes] = {}
    for row in records:
        if row["error"] is None:
            path, number = Path(str(row["path"])), 1
            folder, name = row["label"] or "unsure", path.name
            while f"{folder}/{name}" in found:
                number += 1
                name = f"{path.stem}-{number}{path.suffix}"
            found[f"{folder}/{name}"] = path.read_bytes()
    return found


@pytest.mark.parametrize("more", [[], ["--min-score", "0.9"], ["--only", "uncertain=6"], ["-o", "out.csv"]])
def test_images_are_sorted_into_a_folder_per_label(
    wisesr: CommandLine, trained: Trained, photos: Path, more: list[str]
) -> None:
    expected = sorted_as(records_of(wisesr, trained, *[word for word in more if word not in ("-o", "out.csv")]))
    answer = wisesr("predict", trained.run, photos, "--sort-into", "sorted", *more)
    assert answer.code == 6
    assert snapshot(Path("sorted")) == expected
    assert answer.said(f"{len(expected)} images copied into ")
    assert len(snapshot(photos)) == 16


def run_with(body: str, *line: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command in its own process, with `body` in place of the function that places an image."""
    program = (
        "import os, signal, sys\nfrom wisesr_cli.cli import main\nfrom wisesr_cli.prediction import placing\n"
        f"put, done = placing._put, []\ndef put_or_not(*given):\n    done.append(given)\n    {body}\n"
        "placing._put = put_or_not\nsys.exit(main.run(sys.argv[1:]))\n"
    )
    variables = {**environment(Path.cwd()), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, "-c", program, *line], env=variables, capture_output=True, timeout=500)


@pytest.mark.parametrize("mode", ["copy", "link", "move"])
@pytest.mark.parametrize("output", [["-o", "out.csv"], []])
def test_sort_into_resumes_after_stops_while_labelling_and_while_placing(
    wisesr: CommandLine, trained: Trained, photos: Path, mode: str, output: list[str]
) -> None:
    expected = sorted_as(records_of(wisesr, trained, "--sort", "label"))
    line = ("predict", str(trained.run), "photos", "--sort", "label", "--sort-into", "sorted")
    line = (*line, "--sort-into-by", mode, *output)
    if output:
        with stopping_after(8):
            assert wisesr(*line).code == 130
        assert not Path("sorted").exists()
    kill_at_sixth = "return put(*given) if len(done) < 6 else os.kill(os.getpid(), signal.SIGKILL)"
    done = run_with(kill_at_sixth, *line, *(("--resume",) if output else ()))
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert Path("out.csv").exists() == bool(output)
    again = wisesr(*line)
    assert again.code == 2
    assert ("continue with --resume" if not output else "exists; replace it") in again.error
    again = wisesr(*line, "--resume").worked()
    assert again.said("15 images ")
    assert snapshot(Path("sorted")) == expected
    assert len(snapshot(photos)) == (1 if mode == "move" else 16)


def test_an_interrupted_sort_into_exits_with_130_between_images_and_suggests_resume(
    trained: Trained, photos: Path
) -> None:
    stop = "os.kill(os.getpid(), signal.SIGINT); return put(*given)"
    done = run_with(stop, "predict", str(trained.run), "photos", "--sort-into", "sorted")
    assert done.returncode == 130
    assert done.stderr.decode().splitlines()[-1].endswith("repeat the command with --resume")
    assert len([name for name in snapshot(Path("sorted")) if not name.startswith(".")]) == 1


def test_resume_rejects_placing_started_by_another_command(wisesr: CommandLine, trained: Trained, photos: Path) -> None:
    placing = Placing(Path("sorted").absolute(), "copy", ["red"])
    placing.folder.mkdir()
    list(placing.planned([Prediction("photos/red/00.png", "red", 1.0)] * 2))

    def stop() -> None:
        raise UsageError("stop")

    with pytest.raises(UsageError, match="stop"):
        placing.carry_out(Silent(), stop)
    line = ("predict", trained.run, photos, "-o", "new.csv", "--sort-into", "sorted")
    wisesr(*line, "--resume").refused(2, "images of another command are being placed there")
    assert wisesr(*line, "--overwrite").code == 6
    assert len(snapshot(Path("sorted"))) == 15


def test_sort_and_only_are_rejected_with_show_or_shard(trained: Trained, photos: Path) -> None:
    class Screen:
        def show(self, *given: object) -> None:
            raise AssertionError

    for option in ({"sort": "path"}, {"only": "uncertain=3"}):
        for more, said in (
            ({"screen": Screen()}, "--show shows images as they are labelled"),
            ({"shard": "0/2"}, "only sees its own shard"),
        ):
            with pytest.raises(UsageError, match=said):
                wisesr_cli.predict(trained.run, ["photos"], **option, **more)
    assert names() == ["photos"]


def test_sorted_records_are_printed_all_at_once_or_not_at_all(
    wisesr: CommandLine, trained: Trained, photos: Path
) -> None:
    """A pattern without a match as the last input leaves standard output empty."""
    answer = wisesr("predict", trained.run, "photos/red/00.png", "photos/missing/*.png", "--sort", "path")
    assert answer.out == ""
    assert answer.code == 3


@pytest.mark.slow
@pytest.mark.long
def test_ray_writes_the_same_outputs(wisesr: CommandLine, trained: Trained, photos: Path) -> None:
    pytest.importorskip("ray")
    line = ("predict", trained.run, photos, "--sort", "uncertain", "--probabilities")
    for folder, engine in (("here", "litert"), ("ray", "ray")):
        Path(folder).mkdir()
        more = ("-o", f"{folder}/out.csv", "--sort-into", f"{folder}/sorted", "--sheet", f"{folder}/look.png")
        assert wisesr(*line, *more, "--engine", engine).code == 6
    assert snapshot(Path("ray")) == snapshot(Path("here"))
