"""Verdicts on synthetic results and on a real run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from command_line import CommandLine, Trained

from wisesr_cli.config.reader import Override, load_config
from wisesr_cli.evaluation.metrics import answers_of, compute_metrics
from wisesr_cli.evaluation.output import Scored
from wisesr_cli.evaluation.verdict import VERDICTS, Training, with_verdict
from wisesr_cli.results.evaluation import Verdict
from wisesr_cli.results.training import EpochResult

CLASSES = ("bag", "hat", "shoe")


def answers(truth: Sequence[int], predicted: Sequence[int], *, sure: float = 8.0) -> np.ndarray:
    return np.eye(len(CLASSES), dtype="float32")[list(predicted)] * sure


def training(
    losses: Sequence[float] = (1.0, 0.6, 0.5, 0.45),
    *,
    accuracy: float = 0.6,
    validation: float = 0.6,
    best: int = 3,
    counts: tuple[int, ...] = (4000, 4000, 4000),
    on_training: float | None = None,
    **settings: object,
) -> Training:
    values = {"train.epochs": len(losses) + 1, "model.backbone": "MobileNet", "model.weights": "imagenet", **settings}
    overrides = [Override(tuple(key.split(".")), value, key) for key, value in values.items()]
    rows = [EpochResult(n, 1, 1e-3, loss, accuracy, loss, validation, 1.0) for n, loss in enumerate(losses, 1)]
    config = load_config(None, overrides).config
    return Training("runs/r", config, tuple(rows), best, counts, sum(counts), on_training)


def verdict(truth: Sequence[int], logits: np.ndarray, known: Training | None = None) -> dict[str, Verdict]:
    metrics = with_verdict(Scored(compute_metrics(logits, truth, CLASSES), answers_of(logits, truth)), known).metrics
    assert len({row.code for row in metrics.verdict}) == len(metrics.verdict)
    return {row.code: row for row in metrics.verdict}


TRUTH = [0, 1, 2] * 30
RIGHT = TRUTH[:60] + [0] * 30  # 60 right, and 10 more by chance


def test_a_good_model_has_one_row_that_says_so() -> None:
    found = verdict(TRUTH, answers(TRUTH, TRUTH), training(accuracy=1.0, validation=1.0))
    assert list(found) == ["accuracy"]
    row = found["accuracy"]
    assert (row.level, row.command) == ("pass", None)
    assert "100.0 % on 90 images (95 % interval 95.9 % to 100.0 %)" in row.message
    assert "chance is 33.3 %, always predicting 'bag' would be right for 33.3 %" in row.message


@pytest.mark.parametrize(
    ("truth", "predicted", "level"),
    [(TRUTH, RIGHT, "pass"), ([0] * 8 + [1, 2], [0] * 9 + [2], "warn"), ([0, 0, 0, 1], [0, 0, 1, 0], "fail")],
)
def test_the_accuracy_is_judged_by_its_interval_against_the_most_frequent_class(
    truth: list[int], predicted: list[int], level: str
) -> None:
    row = verdict(truth, answers(truth, predicted), training())["accuracy"]
    assert row.level == level
    assert (row.command is None) == (level == "pass")


CASES = {
    "one-label": (answers(TRUTH, [1] * 90), training(), "predicts 'hat' for every image", "--learning-rate 0.0001"),
    "equal-scores": (answers(TRUTH, RIGHT, sure=0.05), training(), "nearly equal", "--learning-rate 0.01"),
    "never-predicted": (answers(TRUTH, [0, 1, 0] * 30), training(), "1 class is never predicted: shoe", "--report"),
    "overfitting": (answers(TRUTH, RIGHT), training(accuracy=0.99), "epoch 3 reached 99.0 % on the", "dropout=0.5"),
    "statistics": (
        answers(TRUTH, RIGHT), training(accuracy=0.99, on_training=0.3), "for 30.0 %, but was for 99.0 %", "-b 64",
    ),
    "loss-did-not-move": (answers(TRUTH, RIGHT), training((1.1, 1.09, 1.1)), "1.1000 in the first", "-rate 0.01"),
    "best-first": (answers(TRUTH, RIGHT), training(best=1), "the first of 4 epochs was the best", "-rate 0.0001"),
    "still-improving": (
        answers(TRUTH, RIGHT), training(best=4, **{"train.epochs": 4}), "last of 4 epochs", "--resume --epochs 8",
    ),
    "random-weights": (
        answers(TRUTH, RIGHT), training(counts=(9, 9, 9), **{"model.weights": None}), "on 27 training images",
        "model.weights=imagenet",
    ),
}  # fmt: skip


@pytest.mark.parametrize("code", CASES)
def test_a_problem_is_reported_with_the_command_to_try(code: str) -> None:
    logits, known, words, command = CASES[code]
    row = verdict(TRUTH, logits, known)[code]
    assert words in row.message
    assert row.command is not None
    assert row.command.startswith("wisesr ")
    assert row.command.endswith(command)
    assert row.level in ("warn", "fail")


def test_every_verdict_has_a_case() -> None:
    assert {name.strip("_").replace("_", "-") for name in (judge.__name__ for judge in VERDICTS)} == {
        "accuracy",
        *CASES,
    }


@pytest.mark.parametrize("code", sorted(CASES.keys() - {"one-label", "equal-scores", "never-predicted"}))
def test_a_sound_training_gets_no_warning(code: str) -> None:
    assert code not in verdict(TRUTH, answers(TRUTH, RIGHT), training())


def test_class_weights_are_suggested_for_a_rare_class() -> None:
    known = training(counts=(900, 900, 30))
    assert "class_weights=balanced" in str(
        verdict(TRUTH, answers(TRUTH, [0, 1, 0] * 30), known)["never-predicted"].command
    )


def test_without_a_run_only_the_predictions_are_judged() -> None:
    found = verdict(TRUTH, answers(TRUTH, [1] * 90, sure=0.05))
    assert {code: row.command for code, row in found.items()} == dict.fromkeys(
        ("accuracy", "one-label", "equal-scores")
    )


def test_without_examples_there_is_no_verdict() -> None:
    nothing = np.empty((0, 3))
    scored = Scored(compute_metrics(nothing, [], CLASSES), answers_of(nothing, []))
    assert not with_verdict(scored, training()).metrics.verdict


def test_terminal_json_and_report_show_the_same_verdict(wisesr: CommandLine, trained: Trained) -> None:
    table = wisesr("evaluate", trained.run, "--report")
    record = wisesr("evaluate", trained.run, "--format", "json").data
    page = (trained.run / "evaluate-test" / "report.html").read_text(encoding="utf-8")
    low, high = record["interval"]
    assert low <= record["top1_accuracy"] <= high
    assert record["verdict"][0]["code"] == "accuracy"
    for row in record["verdict"]:
        assert set(row) == {"code", "level", "message", "command"}
        assert row["message"] in table.out
        assert row["message"].replace("'", "&#39;") in page
