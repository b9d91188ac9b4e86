"""The conclusions, tables and plots of a comparison, and its figures computed from single predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wisesr_cli.comparison import plots
from wisesr_cli.comparison.bootstrap import paired_interval
from wisesr_cli.comparison.conclusions import conclude, more_seeds, points
from wisesr_cli.comparison.figures import compare_trainings, read_example_results
from wisesr_cli.comparison.plan import PlannedTraining
from wisesr_cli.comparison.plots import plot_accuracies, plot_curves
from wisesr_cli.comparison.state import ComparisonState, TrainingRecord
from wisesr_cli.comparison.tables import comparison_grids, comparison_markdown, comparison_rows
from wisesr_cli.config.reader import LoadedConfig
from wisesr_cli.config.schema import Config
from wisesr_cli.errors import RunError
from wisesr_cli.results.training import ComparedTraining, Comparison, ComparisonRow
from wisesr_cli.run.names import PREDICTIONS, TRAININGS
from wisesr_cli.run.progress import Circumstances
from wisesr_cli.run.records import write_rows
from wisesr_cli.run.run import Run


def row(
    head: str, low: float | None = None, high: float | None = None, seeds: int | tuple[int, ...] = 5, **values: Any
) -> ComparisonRow:
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else seeds
    interval = None if low is None or high is None else (low, high)
    given = ComparisonRow(
        head=head,
        seeds=seeds,
        top1_accuracy_mean=0.5,
        top1_accuracy_std=0.01 if len(seeds) > 1 else None,
        macro_f1_mean=0.4,
        macro_f1_std=0.02 if len(seeds) > 1 else None,
        head_parameters=1000,
        total_parameters=5000,
        seconds_per_epoch_mean=1.5,
        epochs_to_first_best_mean=None,
        difference_to_first_mean=None if interval is None else sum(interval) / 2,
        difference_to_first_ci95=interval,
    )
    return replace(given, **values)


def training(head: str, seed: int, **values: Any) -> ComparedTraining:
    given = ComparedTraining(head, seed, f"{head}-seed{seed}", (3,), 3, 2, 0.5, 0.4, (0.2, 0.5, 0.4), 1.0, None)
    return replace(given, **values)


def comparison(*rows: ComparisonRow, **values: Any) -> Comparison:
    trainings = tuple(training(row.head, seed) for row in rows for seed in row.seeds)
    given = Comparison("somewhere", "test", 179, True, "validation", (7, 7, 64), rows, trainings, ())
    return replace(given, **values)


def said(*rows: ComparisonRow, **values: Any) -> str:
    return "\n".join(conclude(comparison(*rows, **values)).conclusions)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.012, 0.05, "better on images like these, by more than the choice of seed and images explains"),
        (-0.05, -0.012, "worse on images like these, by more than the choice of seed and images explains"),
        (-0.01, 0.05, "the interval includes zero: no clear difference"),
        (0.0, 0.05, "the interval includes zero"),
    ],
)
def test_a_verdict_is_given_only_if_the_interval_excludes_zero(low: float, high: float, verdict: str) -> None:
    text = said(row("gap"), row("wise", low, high))
    assert f"{points(low)} to {points(high)}; 5 seeds, 179 examples): {verdict}" in text
    assert text.count("no clear difference") + text.count("by more than the choice of seed") == 1


def test_the_difference_is_stated_in_points_with_its_interval() -> None:
    text = said(row("gap"), row("wise", 0.012, 0.05))
    assert "wise against gap: +3.1 points (95 % interval +1.2 to +5.0; 5 seeds, 179 examples)" in text


@pytest.mark.parametrize("difference", [0.0, 1.0])
def test_a_zero_width_interval_gives_no_verdict(difference: float) -> None:
    text = said(row("gap"), row("wise", difference, difference))
    assert "the interval has zero width and says nothing about other images" in text
    assert "better on" not in text


def test_one_seed_claims_nothing_about_other_trainings() -> None:
    text = said(row("gap", seeds=1), row("wise", 0.01, 0.05, seeds=1))
    assert "this one training was better by more than the choice of images explains; other seeds may differ" in text
    assert "1 seed: the intervals cover differences between images" in text
    assert "--seeds 5 --resume" in text


def test_two_seeds_are_reported_as_too_few_and_three_are_not() -> None:
    assert "2 seeds say little" in said(row("gap", seeds=2), row("wise", -0.1, 0.1, seeds=2))
    assert "--seeds 5" not in said(row("gap", seeds=3), row("wise", -0.1, 0.1, seeds=3))


def test_few_common_seeds_are_reported_even_if_other_heads_have_none() -> None:
    failed = row("fc", seeds=0)
    assert "1 seed: the intervals cover differences between images" in said(
        row("gap", seeds=1), failed, row("wise", 0.01, 0.05, seeds=1)
    )
    text = said(row("gap", seeds=3), row("wise", 0.01, 0.05, seeds=(2, 3, 4)))
    assert "1 seed: the intervals cover differences between images" in text


def test_suggested_seeds_include_the_existing_ones() -> None:
    advised = {(0,): "5", (0, 1): "5", (7, 9): "7,9,0,1,2", (1,): "5", tuple(range(8)): "8"}
    assert {seeds: more_seeds(seeds) for seeds in advised} == advised
    assert "--seeds 7,0,1,2,3 --resume" in said(row("gap", seeds=(7,)), row("wise", 0.01, 0.05, seeds=(7,)))


def test_images_that_are_not_independent_are_reported() -> None:
    rows = row("gap"), row("wise", 0.01, 0.05)
    overlapping = said(*rows, split="validation", same_examples=False)
    assert "those of different seeds overlap" in overlapping
    assert "up to 179 examples for each seed" in overlapping
    assert "overlap" not in said(*rows, split="validation")
    assert "group" not in said(*rows)
    assert "of the same group" in "".join(conclude(comparison(*rows), in_groups=True).conclusions)


def test_multiple_comparisons_are_reported() -> None:
    others = [row(head, 0.01, 0.02) for head in ("wise", "flatten", "depthwise")]
    assert "3 heads are compared to gap, each at 95 % on its own" in said(row("gap"), *others)
    assert "up to 15 %" in said(row("gap"), *others)
    assert "on its own" not in said(row("gap"), *others[:2])


def test_a_map_of_one_position_is_reported_first() -> None:
    lines = said(row("gap"), row("wise", 0.0, 0.0), feature_map=(1, 1, 64)).splitlines()
    assert lines[0].startswith("the feature map has a single position")


def test_validation_missing_trainings_and_differing_schedules_are_reported() -> None:
    rows = row("gap", seeds=2), row("wise", -0.1, 0.1, seeds=2)
    trainings = (
        training("gap", 0, schedules=(3, 5)),
        training("wise", 0, schedules=(5,)),
        training("gap", 1),
        training("wise", 1, error="the training loss became nan"),
    )
    text = said(*rows, split="validation", trainings=trainings)
    assert "evaluated on validation, which also chose the best epochs" in text
    assert "wise has no result for seed 1: the training loss became nan" in text
    assert "seed 0 was not trained alike for all heads" in text
    assert "(gap 3 and then 5, wise 5)" in text
    assert "seed 1 was not trained alike" not in text


def test_heads_without_a_seed_in_common_are_not_compared() -> None:
    assert "no seed has a result for both, so they cannot be compared" in said(row("gap", seeds=0), row("wise"))


def test_costs_are_stated_in_parameters() -> None:
    text = said(row("gap"), row("wise", 0, 0, head_parameters=2500, total_parameters=6500))
    assert "wise has 2,500 parameters in its head, gap 1,000 (2.50 times)" in text
    assert "with the backbone 6,500 and 5,000 (1.30 times)" in text


def test_points_have_a_sign_but_zero_has_none() -> None:
    assert [points(value) for value in (0.031, -0.0004, 0.0004, 0.0, -0.2)] == ["+3.1", "0.0", "0.0", "0.0", "-20.0"]


def test_heads_without_results_are_shown_with_dashes() -> None:
    nothing = row("wise", seeds=0, top1_accuracy_mean=None, macro_f1_mean=None, head_parameters=None)
    nothing = replace(nothing, total_parameters=None, seconds_per_epoch_mean=None)
    accuracy, cost = comparison_grids(comparison(row("gap", seeds=1), nothing))
    assert accuracy.rows[1] == ("wise", "0", "-", "-", "-", "-")
    assert cost.rows[1] == ("wise", "-", "-", "-", "-")
    assert accuracy.rows[0][2] == "50.0"  # one seed has no deviation
    assert comparison_rows(comparison(nothing))[0].count(None) == 11


def test_markdown_special_characters_are_escaped() -> None:
    failed = (training("wise", 0, error="a `b` | <i>c</i>"),)
    text = comparison_markdown(conclude(comparison(row("gap"), row("wise:pre_pool=2", 0, 0), trainings=failed)))
    assert "wise:pre\\_pool=2" in text
    assert "a \\`b\\` \\| \\<i\\>c\\</i\\>" in text


# Figures from predictions


def judged(folder: Path, answers: dict[tuple[str, int], tuple[list[str], list[bool]]]) -> Comparison:
    """Write the predictions of runs and return the comparison of their heads."""
    state = ComparisonState(folder / TRAININGS, Circumstances({}, (), {}, {}, "", 1, ""), 3)
    planned = []
    for (head, seed), (paths, correct) in answers.items():
        item = PlannedTraining(head, seed, f"{head}-seed{seed}", LoadedConfig(Config(), (), ""))
        evaluated = Run(folder / item.run).evaluation_dir("test")
        evaluated.mkdir(parents=True)
        cells = [(path, "a", "a", "1.0", "1.0", str(right).lower()) for path, right in zip(paths, correct, strict=True)]
        write_rows(evaluated / PREDICTIONS, ("path", "truth", "predicted", "score", "truth_score", "correct"), cells)
        accuracy = float(np.mean(correct))
        state.trainings[item.run] = TrainingRecord(
            (3,),
            is_done=True,
            accuracies=(accuracy,),
            epoch_seconds=(1.0,),
            top1_accuracy=accuracy,
            macro_f1=0.5,
            head_parameters=1000,
            total_parameters=5000,
        )
        planned.append(item)
    return compare_trainings(Run(folder), planned, state, "test")


def test_seeds_with_different_images_are_paired_within_each_seed(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    answers = {
        (head, seed): ([f"{seed}-{n}.png" for n in range(30)], (random.random(30) < chance).tolist())
        for seed in range(3)
        for head, chance in (("gap", 0.4), ("wise", 0.7))
    }
    result = judged(tmp_path, answers)
    assert result.same_examples is False
    assert result.examples == 30
    differences = [np.subtract(answers["wise", s][1], answers["gap", s][1], dtype=int) for s in range(3)]
    assert result.rows[1].difference_to_first_mean == pytest.approx(np.mean(differences))
    assert result.rows[1].difference_to_first_ci95 == paired_interval(differences, same_examples=False)


def test_heads_evaluated_on_different_images_are_rejected(tmp_path: Path) -> None:
    answers = {("gap", 0): (["a.png"], [True]), ("wise", 0): (["b.png"], [True])}
    with pytest.raises(RunError, match="were evaluated on different images"):
        judged(tmp_path, answers)


def test_predictions_with_an_invalid_correct_column_are_reported_as_damaged(tmp_path: Path) -> None:
    judged(tmp_path, {("gap", 0): (["a.png"], [True]), ("wise", 0): (["a.png"], [False])})
    path = tmp_path / "gap-seed0" / "evaluate-test" / PREDICTIONS
    path.write_text(path.read_text(encoding="utf-8").replace("true", "yes"), encoding="utf-8")
    with pytest.raises(RunError, match="damaged"):
        read_example_results(Run(tmp_path / "gap-seed0"), "test", TrainingRecord())


# Plots


def drawn(monkeypatch: pytest.MonkeyPatch, plot: Any, shown: Comparison) -> Any:
    """Return the axes that a plot draws."""
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    plot(shown, Path("nowhere.png"))
    return figures[0].axes[0]


def test_accuracies_are_plotted_over_parameters_with_a_dot_per_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn(monkeypatch, plot_accuracies, comparison(row("gap"), row("wise", 0, 0, head_parameters=9000)))
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["gap", "wise"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1k", "9k"]
    dots = [line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 5]
    assert [points[:, 0].tolist() for points in dots] == [[1000.0] * 5, [9000.0] * 5]


def test_learning_curves_average_the_trainings_that_reach_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = (training("gap", 0, accuracies=(0.1, 0.3)), training("gap", 1, accuracies=(0.3, 0.5, 0.9)))
    axes = drawn(monkeypatch, plot_curves, comparison(row("gap", seeds=2), trainings=trainings))
    assert axes.lines[0].get_ydata() == pytest.approx([20, 40, 90])
