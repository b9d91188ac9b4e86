"""The tables of an evaluation."""

from __future__ import annotations

from wisesr_cli.display.grid import Grid, decimal, numbers, percent, texts
from wisesr_cli.results.evaluation import (
    AnyEvaluation,
    CoverageMetrics,
    LabelIssues,
    Metrics,
    MultilabelEvaluation,
    MultilabelMetrics,
)

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


_MULTILABEL_NAMES = {
    "mean_average_precision": "mean average precision",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "micro_precision": "micro precision",
    "micro_recall": "micro recall",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "macro_auc": "macro AUC",
    "exact_match": "all labels right (exact match)",
    "hamming_loss": "wrong labels (Hamming loss)",
    "top1_accuracy": "best label right (top-1)",
}
_PER_IMAGE = {"labels_per_image": "labels per image", "predicted_per_image": "labels given per image"}


def metrics_grid(metrics: Metrics | MultilabelMetrics, title: str) -> Grid:
    """Return the scalar metrics, a row each."""
    names = _METRIC_NAMES if isinstance(metrics, Metrics) else _MULTILABEL_NAMES
    rows = [(name, percent(getattr(metrics, field))) for field, name in names.items()]
    rows += [("log loss", decimal(metrics.log_loss)), ("ECE", percent(metrics.ece))]
    if metrics.temperature != 1:
        rows += [("ECE before calibration", percent(metrics.ece_uncalibrated))]
        rows += [("temperature", f"{metrics.temperature:.3g}")]
    if isinstance(metrics, MultilabelMetrics):
        rows += [(name, decimal(getattr(metrics, field), 2)) for field, name in _PER_IMAGE.items()]
    rows += [("examples", f"{metrics.examples:,}")]
    return Grid(title, (*texts("metric"), *numbers("value")), tuple(rows))


def coverage_grid(coverage: CoverageMetrics) -> Grid:
    """Return the results of a coverage."""
    low_high = "" if (interval := coverage.covered_interval) is None else " to ".join(map(percent, interval))
    rows = (
        ("requested coverage", percent(coverage.coverage)),
        ("sets that contain the true class", f"{percent(coverage.covered)} ({low_high})"),
        ("mean labels in a set", decimal(coverage.mean_set_size)),
        ("sets with one label", percent(coverage.single_sets)),
        ("lowest score of a label in a set", decimal(coverage.set_score)),
        ("lowest score of a single answer", decimal(coverage.answer_score)),
        ("images with a single answer", percent(coverage.answered)),
        ("of these correct", percent(coverage.answered_accuracy)),
        ("validation images used", f"{coverage.validation_examples:,}"),
    )
    return Grid("Coverage", (*texts(""), *numbers("value")), rows)


def metrics_rows(metrics: Metrics | MultilabelMetrics) -> list[tuple[str, float | int | None]]:
    """Return the scalar metrics for CSV, at full precision."""
    names = (*_METRIC_NAMES,) if isinstance(metrics, Metrics) else (*_MULTILABEL_NAMES, *_PER_IMAGE)
    return [(name, getattr(metrics, name)) for name in ("examples", *names, *_EXACT)]


def verdict_grid(metrics: Metrics | MultilabelMetrics) -> Grid:
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


def per_label_grid(metrics: MultilabelMetrics) -> Grid:
    """Return threshold, precision, recall, F1 and average precision of every label."""
    columns = (*texts("label"), *numbers("support", "threshold", "precision", "recall", "F1", "average precision"))
    rows = [
        (
            *(row.label, f"{row.support:,}", decimal(row.threshold, 3)),
            *map(percent, (row.precision, row.recall, row.f1, row.average_precision)),
        )
        for row in metrics.per_class
    ]
    return Grid("Labels", columns, tuple(rows))


def label_issues_grid(issues: LabelIssues) -> Grid:
    """Return the labels that are most likely wrong."""
    title = f"Labels likely to be wrong: {issues.suspected:,} of {issues.examples:,}"
    columns = (*texts("image", "split", "label", "suggested"), *numbers("label's score", "suggested's"))
    rows = tuple(
        (row.path, row.split, row.label, row.suggested, percent(row.score), percent(row.suggested_score))
        for row in issues.most_doubtful
    )
    caption = f"the first {len(rows):,}, most likely wrong first" if len(rows) < issues.suspected else ""
    return Grid(title, columns, rows, caption)


def evaluation_grids(evaluation: AnyEvaluation) -> list[Grid]:
    """Return everything about an evaluation: metrics, classes, confused pairs, worst mistakes."""
    title = f"Evaluation on {evaluation.split}"
    if isinstance(evaluation, MultilabelEvaluation):
        grids = [metrics_grid(evaluation.metrics, title), per_label_grid(evaluation.metrics)]
        if evaluation.worst_mistakes:
            grids.append(_label_mistakes_grid(evaluation))
        return [*grids, verdict_grid(evaluation.metrics)]
    pairs = tuple(
        (pair.truth, pair.predicted, f"{pair.count:,}", percent(pair.fraction_of_truth))
        for pair in evaluation.most_confused
    )
    mistakes = tuple(
        (mistake.path, mistake.truth, mistake.predicted, percent(mistake.score), percent(mistake.truth_score))
        for mistake in evaluation.worst_mistakes
    )
    grids = [metrics_grid(evaluation.metrics, title), per_class_grid(evaluation.metrics)]
    if pairs:
        columns = (*texts("class", "predicted as"), *numbers("images", "of the class"))
        grids.append(Grid("Most confused", columns, pairs))
        shown = (*texts("image", "class", "predicted as"), *numbers("score", "true class"))
        grids.append(Grid("Worst mistakes", shown, mistakes))
    if evaluation.label_issues is not None:
        grids.append(label_issues_grid(evaluation.label_issues))
    if evaluation.metrics.coverage is not None:
        grids.append(coverage_grid(evaluation.metrics.coverage))
    return [*grids, verdict_grid(evaluation.metrics)]


def _label_mistakes_grid(evaluation: MultilabelEvaluation) -> Grid:
    words = {"missed": "missed", "extra": "wrongly given"}
    rows = tuple(
        (row.path, row.label, words[row.kind], percent(row.score), percent(row.threshold))
        for row in evaluation.worst_mistakes
    )
    return Grid("Worst mistakes", (*texts("image", "label", ""), *numbers("score", "threshold")), rows)
