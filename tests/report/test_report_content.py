"""`evaluate --report` gathers the worst mistakes, some right answers and their maps, and stays small enough to mail."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Generator
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from command_line import CLASSES, CommandLine, Trained, make_photo
from disk_events import FullDisk, hearing
from report_pages import Page, make_answers, make_contribution, make_evaluation

from wisesr_cli.data.index import DatasetIndex, Split
from wisesr_cli.errors import RunError
from wisesr_cli.evaluation.evaluate import Evaluated, Subject
from wisesr_cli.images.preparation import Preparation, Resize
from wisesr_cli.listening import Progress
from wisesr_cli.model_files.archive import CheckedModel
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.report import content as report_content
from wisesr_cli.report.content import gather
from wisesr_cli.report.facts import without_folders
from wisesr_cli.report.page import render
from wisesr_cli.report.pictures import MOST_ASPECT, thumbnails, tinted_map
from wisesr_cli.report.records import Card, Thumbnail
from wisesr_cli.report.selection import choose_listed, choose_mistakes, choose_right, examples_of, listed_bytes
from wisesr_cli.requests import EvaluateRequest
from wisesr_cli.run.located import locate
from wisesr_cli.run.run import Run


@pytest.fixture(scope="module")
def reported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that was evaluated with a report."""
    from wisesr_cli.cli.main import run

    folder = trained.copy_to(tmp_path_factory.mktemp("reported") / "run")
    assert run(["evaluate", str(folder), "--report", "-q"]) == 0
    return folder


def page_of(folder: Path) -> tuple[str, dict[str, list[list[object]]]]:
    """Return the text of a report, and the data in its script."""
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, json.loads(Page(text).texts["script"][0])


def test_the_report_shows_the_metrics_and_the_run(reported: Path) -> None:
    text, _ = page_of(reported / "evaluate-test")
    metrics = json.loads((reported / "evaluate-test" / "metrics.json").read_text(encoding="utf-8"))
    for name in ("top1_accuracy", "macro_f1", "macro_auc", "ece"):
        assert f"{100 * metrics[name]:.1f} %" in text
    for section in ("summary", "data", "classes", "confusion", "reliability", "images", "learning", "settings"):
        assert f'<section id="{section}"' in text
    assert "compact_small, head wise, 3 classes" in text
    assert "Not in this report" not in text
    assert "3 classes have fewer than 30 images here" in text


def test_the_cells_of_the_report_list_the_rows_of_predictions_csv(reported: Path) -> None:
    _, data = page_of(reported / "evaluate-test")
    rows = (reported / "evaluate-test" / "predictions.csv").read_text(encoding="utf-8").splitlines()[1:]
    expected = {tuple(row.split(",")[:3]) for row in rows}
    assert {(row[0], CLASSES[row[1]], CLASSES[row[2]]) for row in data["examples"]} == expected  # type: ignore[index]


def test_sums_below_the_maps_add_up_to_the_logits(reported: Path) -> None:
    text, _ = page_of(reported / "evaluate-test")
    sums = re.findall(r'class="sum"><strong>(\S+)</strong> = (\S+) ([+\u2212]) ([\d.]+)<', text)
    assert len(sums) >= 6
    for logit, total, sign, bias in (tuple(part.replace("\u2212", "-") for part in row) for row in sums):
        assert float(logit) == pytest.approx(float(total) + float(sign + bias), abs=0.0151)  # rounded to two digits
    assert "exact on the feature map of" in text


def test_the_report_does_not_reveal_parent_folders(reported: Path, trained: Trained) -> None:
    text, _ = page_of(reported / "evaluate-test")
    assert f"\u2026/{trained.photos.name}" in unescape(text)
    for folder in (reported.parent, trained.photos.parent):
        assert str(folder) not in text
    assert str(Path.home()) not in text


@pytest.mark.parametrize(
    ("value", "shortened"),
    [
        ("/home/anna/photos", "\u2026/photos"),
        ("/photos/", "\u2026/photos/"),
        ("--data=/home/anna/my photos", "--data=\u2026/my photos"),
        ("photos/cats", "photos/cats"),
        ("/", "/"),
        (
            {"dir": "/a/b", "epochs": 3, "list": ["/a/\n/c", None]},
            {"dir": "\u2026/b", "epochs": 3, "list": ["\u2026/c", None]},
        ),
    ],
)
def test_absolute_paths_are_shortened_to_their_last_component(value: object, shortened: object) -> None:
    assert without_folders(value) == shortened


def test_a_report_on_a_lone_model_omits_what_only_a_run_knows(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    shutil.copy(trained.run / "best.keras", tmp_path / "mine.keras")
    answer = wisesr("evaluate", tmp_path / "mine.keras", "--data", trained.photos / "test", "--report").worked()
    assert f"{tmp_path / 'evaluate-test' / 'report.html'}" in answer.err
    text, _ = page_of(tmp_path / "evaluate-test")
    assert "<title>mine.keras on test: wisesr report</title>" in text
    assert "the model file is not in a run directory" in text
    for section in ("learning", "settings"):
        assert f'<section id="{section}"' not in text
    assert '<section id="images"' in text


def test_a_report_names_skipped_images_and_classes_without_images(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    photos = tmp_path / "fresh"
    for number in range(3):
        make_photo(photos / "red" / f"{number}.png", 2, number)
    (photos / "red" / "bad.png").write_bytes(b"no image at all, but text")
    run = trained.copy_to(tmp_path / "run")
    wisesr("evaluate", run, "--data", photos, "--on-error", "skip", "--report", "--engine", "keras").worked()
    text, data = page_of(run / "evaluate-fresh")
    shown = " ".join(Page(text).texts["bdi"])
    assert "1 image skipped; red/bad.png: not an image" in shown
    assert "fresh: 3 images, by Keras in float32" in shown
    assert "2 classes have no image here: the means over classes exclude them." in text
    assert data["support"] == [0, 0, 3]
    assert re.search(r"<th scope=.col. class=.number.><bdi>validation</bdi> images</th>", text)


def test_a_folder_named_like_a_split_is_not_mistaken_for_it(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    photos = tmp_path / "validation"
    for number in range(2):
        make_photo(photos / "red" / f"{number}.png", 2, number)
    run = trained.copy_to(tmp_path / "run")
    assert wisesr("evaluate", run, "--data", photos, "--report").code == 0
    text, _ = page_of(run / "evaluate-validation")
    assert "The best epoch was chosen on these images" not in text
    row = re.search(r"<tr><th scope=.row.><bdi>folder validation</bdi></th><td class=.number.>(\d+)</td>", text)
    assert row is not None
    assert row.group(1) == "2"
    assert re.search(r"<bdi>validation</bdi> images</th>", text), "the run's own split has its column"
    assert wisesr("evaluate", run, "--split", "validation", "--report").code == 0
    assert "The best epoch was chosen on these images" in page_of(run / "evaluate-validation-2")[0]


def test_a_report_without_maps_states_why_and_shows_the_rest(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained.copy_to(tmp_path / "run")
    (run / "history.csv").write_text("epoch\n1,2\n", encoding="utf-8")

    class Unexplained:
        def __init__(self, checked: CheckedModel, image_size: tuple[int, int]) -> None:
            raise RunError(f"{checked.path}: cannot be explained: its <head> is odd")

    monkeypatch.setattr("wisesr_cli.explanation.explainer.Explainer", Unexplained)
    answer = wisesr("evaluate", run, "--report").worked()
    assert "the report has no contribution maps" in answer.err
    text, data = page_of(run / "evaluate-test")
    left_out = Page(text).texts["bdi"]
    assert "Contribution maps: best.keras: cannot be explained: its <head> is odd" in left_out
    assert any(line.startswith("Learning curves (history.csv): history.csv:2: damaged") for line in left_out)
    assert 'class="tint"' not in text
    assert 'class="card' in text
    assert len(data["examples"]) == 15


def test_evaluating_without_a_report_notes_that_the_existing_one_is_older(wisesr: CommandLine, reported: Path) -> None:
    before = (reported / "evaluate-test" / "report.html").read_bytes()
    answer = wisesr("evaluate", reported)
    assert "report.html is from an earlier evaluation; --report rewrites it" in answer.err
    assert (reported / "evaluate-test" / "report.html").read_bytes() == before


@pytest.mark.reliability(28)
def test_a_full_disk_exits_with_5_and_keeps_the_earlier_report(wisesr: CommandLine, reported: Path) -> None:
    before = (reported / "evaluate-test" / "report.html").read_bytes()

    class Full(FullDisk):
        """Full for the report only; the other files of an evaluation have their own tests."""

        def __call__(self, event: str, path: str) -> None:
            if path.endswith(".html"):
                super().__call__(event, path)

    disk = Full(0)
    with hearing(reported / "evaluate-test", disk):
        answer = wisesr("evaluate", reported, "--report")
    assert disk.refused
    assert answer.code == 5
    assert "report.html: the disk is full" in answer.error
    assert (reported / "evaluate-test" / "report.html").read_bytes() == before
    assert not list((reported / "evaluate-test").glob(".wisesr-*"))


def test_a_folder_in_place_of_the_report_exits_with_4_before_evaluation(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    run = trained.copy_to(tmp_path / "run")
    (run / "evaluate-test" / "report.html").mkdir(parents=True)
    wisesr("evaluate", run, "--report").failed(4, "report.html: is a folder")
    assert not (run / "evaluate-test" / "metrics.json").exists()


def test_chosen_mistakes_are_the_worst_ones_and_one_of_every_other_class() -> None:
    paths = [f"{number:03}.png" for number in range(120)]
    answers, logits = make_answers(6, len(paths))
    evaluation = make_evaluation(paths, answers, logits, [f"class {number}" for number in range(6)])
    examples = examples_of(paths, answers)
    worst = evaluation.worst_mistakes[:3]
    chosen = choose_mistakes(examples, worst)
    assert [row.path for row in chosen[:3]] == [mistake.path for mistake in worst]
    for label in {row.truth for row in examples if not row.is_right} - {row.truth for row in chosen[:3]}:
        expected = max((row for row in examples if row.truth == label and not row.is_right), key=lambda row: row.score)
        assert [row for row in chosen[3:] if row.truth == label] == [expected]
    assert not [row for row in chosen if row.is_right]


def test_chosen_right_answers_are_the_most_and_least_confident_of_every_class() -> None:
    answers, _ = make_answers(5, 60)
    examples = examples_of([f"{number:03}.png" for number in range(60)], answers)
    chosen = choose_right(examples)
    for label in range(5):
        scores = sorted((row.score for row in examples if row.is_right and row.truth == label), reverse=True)
        assert [row.score for row in chosen if row.truth == label] == [scores[0], scores[-1]]


def test_images_are_listed_evenly_over_cells_mistakes_first_within_the_size_limit() -> None:
    answers, _ = make_answers(3, 90)
    examples = examples_of([f"{number:03}.png" for number in range(90)], answers)
    everything = choose_listed(examples, 1_000_000)
    assert sorted(row.position for row in everything) == list(range(90))
    totals = Counter((row.truth, row.predicted) for row in examples)
    for size in range(1, 91):
        counts = Counter((row.truth, row.predicted) for row in everything[:size])
        waiting = [cell for cell in totals if counts[cell] < totals[cell] and len({*cell}) == 2]
        for cell in waiting:  # mistakes: none is ahead by two; right answers get one for every four
            assert all(counts[other] <= counts[cell] + 1 for other in totals if len({*other}) == 2)
            assert all(4 * (counts[label, label] - 1) <= counts[cell] for label in range(3))
    few = choose_listed(examples, sum(map(listed_bytes, everything[:20])))
    assert few == everything[:20]


@pytest.mark.parametrize(
    ("resize", "size", "shown"),
    [
        ("squash", (20, 60), (80, 32)),
        ("squash", (60, 30), (40, 80)),
        ("crop", (60, 30), (80, 40)),
        ("pad", (30, 30), (80, 40)),
    ],
)
def test_a_thumbnail_shows_all_that_the_model_sees(
    tmp_path: Path, resize: Resize, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    photo = make_photo(tmp_path / "a.png", 0, 1, size)
    info = ModelInfo(("a", "b"), (24, 48), Preparation(resize), (255, 255, 255), "compact", "wise", 1, {})
    gone = tmp_path / "gone.png"
    found, missing = thumbnails([str(photo), str(gone)], 80, info, pixel_limit=10**6)
    assert missing is None
    assert found is not None
    assert (found.width, found.height) == shown
    assert max(found.width, found.height) / min(found.width, found.height) <= MOST_ASPECT
    assert found.content[8:12] == b"WEBP"


@pytest.mark.parametrize(
    ("classes", "images", "positions"), [(10, 1_000, 14), (100, 20_000, 14), (1_200, 2_400, 7), (10, 300, 200)]
)
def test_a_report_of_many_images_and_classes_stays_small_enough_to_mail(
    classes: int, images: int, positions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"class {number:04}" for number in range(classes))
    paths = [f"test/{names[number % classes]}/0123456789abcdef-{number:05}.jpg" for number in range(images)]
    answers, logits = make_answers(classes, len(paths))
    index = DatasetIndex(names, "/photos", {"test": Split(tuple(paths), answers.labels)})
    model = tmp_path / "best.keras"
    model.touch()
    info = ModelInfo(names, (224, 224), Preparation(), (255, 255, 255), "compact", "wise", 1, {})
    subject = Subject(index, "test", "test", is_own=True)
    evaluation = make_evaluation(paths, answers, logits, names)
    request = EvaluateRequest(model, device="cpu")
    evaluated = Evaluated(request, locate(model), subject, info, "litert", 1, evaluation, tuple(paths), answers, logits)

    def noise(paths: list[str], side: int, info: ModelInfo, *, pixel_limit: int) -> Generator[Thumbnail, None, None]:
        """Yield thumbnails as large as those of detailed photos."""
        for number in range(len(paths)):
            yield Thumbnail("image/webp", np.random.default_rng(number).bytes(side * side // 5), side, side)

    def explain(cards: list[Card], evaluated: Evaluated, progress: Progress) -> tuple[list[Card], str, str]:
        tinted = tinted_map(make_contribution("a", 1, (positions, positions)))
        return [replace(card, predicted=tinted, difference=tinted) for card in cards], "exact", ""

    monkeypatch.setattr(report_content, "thumbnails", noise)
    monkeypatch.setattr(report_content, "_explain", explain)
    content = gather(evaluated)
    size = len(render(content).encode())
    assert size < 5_000_000
    with_card = {card.example.position for card in (*content.mistakes, *content.right)}
    if images == 1_000:
        assert {*content.thumbnails, *with_card} == {*range(images)}
    elif images == 20_000:
        assert 100 < len(content.thumbnails) < len(content.listed) < images
        assert size > 4_500_000  # the available size is used
    else:
        assert len(content.listed) == images
    assert any("the file would be too large" in line for line in content.left_out) == (positions == 200)


def test_images_that_do_not_fit_are_listed_without_a_thumbnail(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained.copy_to(tmp_path / "run")
    monkeypatch.setattr(report_content, "PAGE_BYTES", 0)
    assert wisesr("evaluate", run, "--report").code == 0
    _, data = page_of(run / "evaluate-test")
    assert data["thumbnails"] == {}
    assert len(data["examples"]) == 15


def test_a_history_round_trips_and_a_damaged_one_is_rejected(trained: Trained, tmp_path: Path) -> None:
    run = Run(trained.copy_to(tmp_path / "run"))
    history = run.read_history()
    assert [row.epoch for row in history] == [1, 2]
    before = (run.path / "history.csv").read_bytes()
    run.write_history(history)
    assert (run.path / "history.csv").read_bytes() == before
    assert run.read_environment()["backend"]
    for damaged in ("epoch\n", "a,b,c,d,e,f,g,h\n1,1,x,1,1,,,1\n", "a,b,c,d,e,f,g,h\n,1,1,1,1,,,1\n"):
        (run.path / "history.csv").write_text(damaged, encoding="utf-8")
        if damaged.count("\n") == 1:
            assert run.read_history() == ()
            continue
        with pytest.raises(RunError, match="damaged"):
            run.read_history()


def test_scores_rounded_to_thousandths_remain_probabilities() -> None:
    answers, logits = make_answers(4, 3)
    for row in examples_of(["a", "b", "c"], answers):
        assert 0 <= row.truth_score <= row.score <= 1
        assert row.is_right == (np.argmax(logits[row.position]) == answers.labels[row.position])
