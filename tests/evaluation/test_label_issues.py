"""Labels that are likely wrong match cleanlab's, and are ranked in a table and on a contact sheet."""

from __future__ import annotations

from pathlib import Path

import cleanlab.filter
import cleanlab.rank
import numpy as np
import pytest
from command_line import CLASSES, CommandLine, Trained, rows_of
from PIL import Image

import wisesr_cli
from wisesr_cli.evaluation import metrics
from wisesr_cli.evaluation.label_issues import HEADER, find_doubts


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    return trained.copy_to(tmp_path / "run")


def drawn(seed: int, classes: int, images: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities of a mostly correct model, and labels of which a tenth are wrong."""
    random = np.random.default_rng(seed)
    truth = random.choice(classes, images, p=random.dirichlet(np.full(classes, 2.0)))
    logits = random.normal(size=(images, classes))
    logits[np.arange(images), truth] += sharpness
    labels = np.where(random.random(images) < 0.1, random.integers(0, classes, images), truth)
    values = np.exp(logits * random.choice([0.3, 1.0, 4.0]))
    return values / values.sum(axis=1, keepdims=True), labels


def suspected_by_cleanlab(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return which labels cleanlab suspects, except those that the model predicts itself."""
    found = cleanlab.filter.find_label_issues(labels, probabilities, filter_by="low_self_confidence", n_jobs=1)
    return np.asarray(found & (probabilities.argmax(axis=1) != labels))


@pytest.mark.parametrize("seed", range(12))
def test_suspected_labels_match_cleanlab(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_BLOCK_NUMBERS", 1000)  # several blocks
    probabilities, labels = drawn(seed, classes=(2, 3, 10, 40)[seed % 4], images=700, sharpness=(1, 2.5, 6)[seed % 3])
    doubts = find_doubts(probabilities, labels)
    theirs = suspected_by_cleanlab(probabilities, labels)
    assert theirs.any()
    assert np.array_equal(doubts.suspected, theirs)
    scores = cleanlab.rank.get_label_quality_scores(labels, probabilities, method="self_confidence")
    assert np.allclose(doubts.scores, scores, atol=1e-12)
    assert np.array_equal(doubts.suggested, probabilities.argmax(axis=1))


def test_suspected_labels_match_cleanlab_if_a_class_has_no_images() -> None:
    probabilities, labels = drawn(0, classes=4, images=400, sharpness=3)
    labels = np.where(labels == 3, 0, labels)
    doubts = find_doubts(probabilities, labels)
    theirs = suspected_by_cleanlab(probabilities, labels)
    assert np.array_equal(doubts.suspected, theirs)


def with_other_labels(run: Path, wrong: dict[str, str]) -> dict[str, str]:
    """Relabel images of a run, by path, in its splits.csv."""
    file = run / "splits.csv"
    text = file.read_text(encoding="utf-8")
    for path, label in wrong.items():
        before = f"{path},{path.split('/')[1]},"
        assert before in text
        text = text.replace(before, f"{path},{label},")
    file.write_text(text, encoding="utf-8")
    return wrong


def test_planted_label_errors_are_ranked_first_and_shown_on_the_sheet(wisesr: CommandLine, run: Path) -> None:
    wrong = with_other_labels(run, {"test/red/01.png": "green", "validation/blue/03.png": "red"})
    answer = wisesr("evaluate", run, "--label-issues").worked()
    rows = rows_of(run / "evaluate-test" / "label_issues.csv")
    assert tuple(rows[0]) == HEADER
    assert len(rows) == 30
    assert {row["path"]: row["label"] for row in rows[:2]} == wrong
    assert {row["path"].split("/")[1] == row["suggested"] for row in rows} == {True}
    assert [row["split"] for row in sorted(rows[:2], key=lambda row: row["path"])] == ["test", "validation"]
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores)
    suspected = sum(row["suspected"] == "true" for row in rows)
    assert 1 <= suspected <= 10
    assert f"Labels likely to be wrong: {suspected} of 30" in answer.out
    with Image.open(run / "evaluate-test" / "label_issues.png") as sheet:
        assert sheet.height < sheet.width  # one row of six
    assert answer.said("label_issues.csv")
    assert answer.said("label_issues.png")
    assert answer.said("wisesr compare ")[0].endswith("--folds 5 --label-issues")


def test_a_contact_sheet_exists_only_if_labels_are_suspected(wisesr: CommandLine, run: Path) -> None:
    wrong = with_other_labels(run, {"test/red/01.png": "green"})
    assert wisesr_cli.evaluate(run, label_issues=True).label_issues is not None
    assert (run / "evaluate-test" / "label_issues.png").is_file()
    file = run / "splits.csv"
    file.write_text(
        file.read_text(encoding="utf-8").replace("test/red/01.png,green", "test/red/01.png,red"), encoding="utf-8"
    )
    issues = wisesr_cli.evaluate(run, label_issues=True).label_issues
    assert issues is not None
    assert wrong.keys().isdisjoint(row.path for row in issues.most_doubtful)
    assert (issues.sheet is not None) == (issues.suspected > 0) == (run / "evaluate-test/label_issues.png").exists()


def test_an_explicit_split_or_folder_is_checked_alone(wisesr: CommandLine, run: Path, trained: Trained) -> None:
    wisesr("evaluate", run, "--split", "validation", "--label-issues").worked()
    rows = rows_of(run / "evaluate-validation" / "label_issues.csv")
    assert {row["split"] for row in rows} == {"validation"}
    answer = wisesr("evaluate", run, "--split", "train", "--label-issues").worked()
    assert answer.said("was trained on these labels")
    wisesr("evaluate", run, "--data", trained.photos / "test", "--label-issues").worked()
    assert len(rows_of(run / "evaluate-test" / "label_issues.csv")) == 5 * len(CLASSES)


def test_label_issues_are_listed_only_on_request(wisesr: CommandLine, run: Path) -> None:
    wisesr("evaluate", run).worked()
    assert not list(run.rglob("label_issues*"))
