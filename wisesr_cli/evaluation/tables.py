"""The tables of an evaluation."""

from __future__ import annotations

from wisesr_cli.display.grid import Grid, decimal, numbers, percent, texts
from wisesr_cli.results.evaluation import CoverageMetrics, Evaluation, LabelIssues, Metrics

_METRIC_NAMES = {
    "top1_accuracy": "top-1 accuracy",
    "top5_accuracy": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "macro_f1": "macro F1",
    "macro_auc": "macro AUC",
}

_EXACT = ("log_loss", "ece", "ece_uncalibrated", "temperature")


def metrics_grid(metrics: Metrics, title: str) -> Grid:
    """Return the scalar metrics, a row each."""
    rows = [(name, percent(getattr(metrics, field))) for field, name in _METRIC_NAMES.items()]
    rows += [("log loss", decimal(metrics.log_loss)), ("ECE", percent(metrics.ece))]
    if metrics.temperature != 1:
        rows += [("ECE before calibration", percent(metrics.ece_uncalibrated))]
        rows += [("temperature", f"{metrics.temperature:.3g}")]
    rows += [("examples", f"{metrics.examples:,}")]
    return Grid(title, (*texts("metric"), *numbers("value")), tuple(rows))


def coverage_grid(coverage: CoverageMetrics) -> Grid:
    """Return how a coverage turned out."""
    low_high = "" if (interval := coverage.covered_interval) is None else " to ".join(map(percent, interval))
    rows = (
        ("coverage that was asked for", percent(coverage.coverage)),
        ("sets that hold the true class", f"{percent(coverage.covered)} ({low_high})"),
        ("labels in a set, mean", decimal(coverage.mean_set_size)),
        ("sets of one label", percent(coverage.single_sets)),
        ("least score of a label in a set", decimal(coverage.set_score)),
        ("least score of a single answer", decimal(coverage.answer_score)),
        ("images with a single answer", percent(coverage.answered)),
        ("of these right", percent(coverage.answered_accuracy)),
        ("validation images behind it", f"{coverage.validation_examples:,}"),
    )
    return Grid("Coverage", (*texts(""), *numbers("value")), rows)


def metrics_rows(metrics: Metrics) -> list[tuple[str, float | int | None]]:
    """Return the scalar metrics for CSV, exact."""
    return [(name, getattr(metrics, name)) for name in ("examples", *_METRIC_NAMES, *_EXACT)]


def verdict_grid(metrics: Metrics) -> Grid:
    """Return what the metrics mean, a row per sentence, and below it the command to try next."""
    rows: list[tuple[str, str]] = []
    for row in metrics.verdict:
        rows += [(row.level.upper(), row.message), *([("", f"try: {row.command}")] if row.command else [])]
    return Grid("Verdict", texts("", ""), tuple(rows))


def per_class_grid(metrics: Metrics) -> Grid:
    """Return precision, recall and F1 of every class."""
    columns = (*texts("class"), *numbers("support", "precision", "recall", "F1"))
    rows = [
        (row.label, f"{row.support:,}", percent(row.precision), percent(row.recall), percent(row.f1))
        for row in metrics.per_class
    ]
    return Grid("Classes", columns, tuple(rows))


def label_issues_grid(issues: LabelIssues) -> Grid:
    """Return the labels that are most likely wrong."""
    title = f"Labels taken for wrong: {issues.suspected:,} of {issues.examples:,}"
    columns = (*texts("image", "split", "label", "suggested"), *numbers("label's score", "suggested's"))
    rows = tuple(
        (row.path, row.split, row.label, row.suggested, percent(row.score), percent(row.suggested_score))
        for row in issues.most_doubtful
    )
    caption = f"the first {len(rows):,}, the most doubtful first" if len(rows) < issues.suspected else ""
    return Grid(title, columns, rows, caption)


def evaluation_grids(evaluation: Evaluation) -> list[Grid]:
    """Return everything about an evaluation: metrics, classes, confused pairs, worst mistakes."""
    pairs = tuple(
        (pair.truth, pair.predicted, f"{pair.count:,}", percent(pair.fraction_of_truth))
        for pair in evaluation.most_confused
    )
    mistakes = tuple(
        (mistake.path, mistake.truth, mistake.predicted, percent(mistake.score), percent(mistake.truth_score))
        for mistake in evaluation.worst_mistakes
    )
    grids = [metrics_grid(evaluation.metrics, f"Evaluation on {evaluation.split}"), per_class_grid(evaluation.metrics)]
    if pairs:
        columns = (*texts("class", "taken for"), *numbers("images", "of the class"))
        grids.append(Grid("Most confused", columns, pairs))
        shown = (*texts("image", "class", "taken for"), *numbers("score", "true class"))
        grids.append(Grid("Worst mistakes", shown, mistakes))
    if evaluation.label_issues is not None:
        grids.append(label_issues_grid(evaluation.label_issues))
    if evaluation.metrics.coverage is not None:
        grids.append(coverage_grid(evaluation.metrics.coverage))
    return [*grids, verdict_grid(evaluation.metrics)]
