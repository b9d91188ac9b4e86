"""Memory and disk usage of an evaluation grow with images plus classes, not with pairs of classes."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine, Trained, rows_of
from reliability import Seen

from wisesr_cli import confusion
from wisesr_cli.confusion import MOST_DENSE, Confusion
from wisesr_cli.evaluation import metrics as module
from wisesr_cli.evaluation.metrics import answers_of, compute_metrics
from wisesr_cli.evaluation.mistakes import most_confused
from wisesr_cli.report.tables import matrix_of
from wisesr_cli.results.evaluation import Metrics
from wisesr_cli.run.records import write_json
from wisesr_cli.training.batches import Batches

IMAGENET_21K = 21_841


def judged(classes: int, examples: int, seed: int = 0) -> tuple[Metrics, np.ndarray, np.ndarray]:
    """Return metrics of predictions that are about half correct, with the labels and the predictions."""
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, classes, examples)
    logits = draws.standard_normal((examples, classes), dtype=np.float32)
    logits[np.arange(examples // 2), labels[: examples // 2]] += 20
    return compute_metrics(logits, labels, names(classes)), labels, logits.argmax(axis=1)


def names(classes: int) -> list[str]:
    return [f"n{number:08}" for number in range(classes)]


def dense(classes: int, labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the peak memory of a function, including NumPy arrays."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("classes", [MOST_DENSE, MOST_DENSE + 1, 300])
def test_the_json_has_the_whole_matrix_for_few_classes_and_its_cells_for_many(classes: int) -> None:
    found, labels, predicted = judged(classes, 2 * classes)
    expected = dense(classes, labels, predicted)
    read = json.loads(json.dumps(found.to_json()))
    assert np.array_equal(found.confusion_matrix, expected)
    if classes <= MOST_DENSE:
        assert read["confusion_matrix"] == expected.tolist()
        assert "confusion_cells" not in read
    else:
        assert read["confusion_matrix"] is None
        cells = [[*place, int(expected[tuple(place)])] for place in np.argwhere(expected).tolist()]
        assert read["confusion_cells"] == cells
    assert list(read).index("confusion_matrix") == list(read).index("per_class") + 1


def test_sparse_and_dense_matrices_have_the_same_statistics() -> None:
    found, labels, predicted = judged(30, 400)
    matrix = dense(30, labels, predicted)
    wrong = matrix - np.diag(matrix.diagonal())
    assert found.confusion.mistakes == wrong.sum()
    assert found.confusion.predicted == matrix.sum(axis=0).tolist()
    assert found.confusion.part([7, 3, 21]) == matrix[np.ix_([7, 3, 21], [7, 3, 21])].tolist()
    most = np.sort(np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:8]).tolist()
    assert found.confusion.most_confused(8) == most
    assert [pair.count for pair in most_confused(found, limit=5)] == np.sort(wrong.ravel())[::-1][:5].tolist()


@pytest.mark.reliability(23)
def test_metrics_json_grows_with_images_plus_classes(tmp_path: Path, seen: Seen) -> None:
    found = {}
    for classes in (500, 5_000):
        write_json(tmp_path / "metrics.json", judged(classes, 200)[0].to_json())
        found[classes] = (tmp_path / "metrics.json").stat().st_size / (classes + 200)
    assert max(found.values()) < 150
    seen(f"metrics.json: {found[500]:.0f} bytes per image or class with 500 classes, {found[5_000]:.0f} with 5,000")


def test_no_memory_is_used_per_pair_of_classes() -> None:
    classes, examples = 8_000, 20  # a byte per pair would be 64 MB, the logits are 0.6 MB
    kept: list[Metrics] = []
    assert peak_bytes(lambda: kept.append(judged(classes, examples)[0])) < 40_000_000
    assert peak_bytes(lambda: json.dumps(kept[0].to_json())) < 40_000_000
    assert peak_bytes(lambda: matrix_of(kept[0])) < 40_000_000
    assert peak_bytes(lambda: most_confused(kept[0])) < 40_000_000


def test_answers_do_not_keep_the_probabilities_of_all_classes() -> None:
    logits = np.zeros((4_000, 4_000), np.float32)  # its probabilities are 128 MB; a block of them 32 MB
    assert peak_bytes(lambda: answers_of(logits, np.zeros(4_000, int))) < 110_000_000


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_holds_only_the_targets_of_its_own_examples(smoothing: float) -> None:
    labels = np.arange(12) * 1_000

    class Nothing:
        def batch(self, indices: np.ndarray) -> np.ndarray:
            return np.zeros((len(indices), 1, 1, 3))

    def first_batch() -> np.ndarray:
        found: np.ndarray = Batches(Nothing(), labels, classes=IMAGENET_21K, batch_size=4, smoothing=smoothing)[0][1]
        return found

    assert peak_bytes(first_batch) < 10_000_000
    targets = first_batch()
    spread = np.float32(smoothing / IMAGENET_21K)
    expected = np.full((4, IMAGENET_21K), spread)
    expected[np.arange(4), labels[:4]] = np.float32(1 - smoothing) + spread
    assert targets.dtype == np.float32
    assert np.array_equal(targets, expected)


def test_macro_auc_is_the_same_by_counting_and_by_sorting(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(3)
    labels = draws.integers(0, 40, 200)
    logits = np.round(draws.normal(size=(200, 40)))  # with many equal scores
    areas = set()
    for few in (0, 3, 1_000):
        monkeypatch.setattr(module, "FEW_MEMBERS", few)
        areas.add(compute_metrics(logits, labels, names(40)).macro_auc)
    assert len(areas) == 1


def test_an_evaluation_of_many_classes_writes_cells_instead_of_the_matrix(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained.copy_to(tmp_path / "run")
    whole = wisesr("evaluate", run, "--format", "json").data["confusion_matrix"]
    monkeypatch.setattr(confusion, "MOST_DENSE", 2)
    data = wisesr("evaluate", run, "--report", "--format", "json").data
    assert data["confusion_matrix"] is None
    assert np.array_equal(np.array(Confusion(3, tuple(map(tuple, data["confusion_cells"]))).part(range(3))), whole)
    assert json.loads((run / "evaluate-test" / "metrics.json").read_text(encoding="utf-8")) == data
    rows = rows_of(run / "evaluate-test" / "confusion_matrix.csv")
    places = {name: label for label, name in enumerate(data["classes"])}
    cells = [[places[row["truth"]], places[row["predicted"]], int(row["count"])] for row in rows]
    assert cells == data["confusion_cells"]
    with (run / "evaluate-test" / "confusion_matrix.csv").open(encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["truth", "predicted", "count"]
