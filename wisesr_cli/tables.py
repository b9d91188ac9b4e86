"""The tables of every result, as plain text in rows: what a person sees, and what Markdown and CSV hold."""

from __future__ import annotations

from collections.abc import Sequence

from wisesr_cli.report import Column, Grid, decimal, percent, score_bar
from wisesr_cli.results import (
    CheckResult,
    DemoResult,
    EpochResult,
    Evaluation,
    Metrics,
    Prediction,
    Summary,
    SummaryRow,
    TrainingPlan,
    TrainingResult,
)
from wisesr_cli.text import counted

N = True  # a column of numbers

_METRIC_NAMES = {
    "top1_accuracy": "top-1 accuracy",
    "top5_accuracy": "top-5 accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "macro_f1": "macro F1",
    "macro_auc": "macro AUC",
}


def metrics_grid(metrics: Metrics, title: str) -> Grid:
    """Return the scalar metrics, a row each."""
    rows = [(name, percent(getattr(metrics, field))) for field, name in _METRIC_NAMES.items()]
    rows += [
        ("log loss", decimal(metrics.log_loss)),
        ("ECE", percent(metrics.ece)),
        ("examples", f"{metrics.examples:,}"),
    ]
    return Grid(title, (Column("metric"), Column("value", N)), tuple(rows))


def metrics_rows(metrics: Metrics) -> list[tuple[str, float | int | None]]:
    """Return the scalar metrics for CSV, exact."""
    return [(name, getattr(metrics, name)) for name in ("examples", *_METRIC_NAMES, "log_loss", "ece")]


def per_class_grid(metrics: Metrics) -> Grid:
    """Return precision, recall and F1 of every class."""
    columns = (Column("class"), Column("support", N), Column("precision", N), Column("recall", N), Column("F1", N))
    rows = [
        (row.label, f"{row.support:,}", percent(row.precision), percent(row.recall), percent(row.f1))
        for row in metrics.per_class
    ]
    return Grid("Classes", columns, tuple(rows))


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
        columns = (Column("class"), Column("taken for"), Column("images", N), Column("of the class", N))
        grids.append(Grid("Most confused", columns, pairs))
        shown = (Column("image"), Column("class"), Column("taken for"), Column("score", N), Column("true class", N))
        grids.append(Grid("Worst mistakes", shown, mistakes))
    return grids


def prediction_columns() -> tuple[Column, ...]:
    """Return the columns of a table of predictions."""
    return (Column("image"), Column("label"), Column("score", N), Column(""), Column("next best"))


def prediction_cells(prediction: Prediction) -> tuple[str, ...]:
    """Return one prediction as cells of a table."""
    if prediction.error is not None:
        return prediction.path, "-", "-", "", f"unreadable: {prediction.error}"
    others = ", ".join(f"{top.label} {percent(top.score)}" for top in prediction.top[1:3])
    return prediction.path, prediction.label or "-", percent(prediction.score), score_bar(prediction.score), others


def predictions_grid(predictions: Sequence[Prediction]) -> Grid:
    """Return predictions as one table."""
    return Grid("Predictions", prediction_columns(), tuple(prediction_cells(row) for row in predictions))


def demo_grid(result: DemoResult) -> Grid:
    """Return the heads of the demo side by side."""
    columns = (
        Column("head"),
        Column("top-1 accuracy", N),
        Column("macro F1", N),
        Column("test pictures", N),
        Column("head parameters", N),
        Column("all parameters", N),
        Column("run directory"),
    )
    rows = tuple(
        (
            row.head,
            percent(row.metrics.top1_accuracy),
            percent(row.metrics.macro_f1),
            f"{row.metrics.examples:,}",
            f"{row.head_parameters:,}",
            f"{row.parameters:,}",
            row.run_dir,
        )
        for row in result.rows
    )
    return Grid("Demo: where are the red sails? (chance 11.1 %)", columns, rows)


def check_grid(result: CheckResult) -> Grid:
    """Return the findings of a check."""
    rows = tuple((row.level.upper(), row.code, row.message) for row in result.findings)
    return Grid("Check", (Column("result"), Column("what"), Column("found")), rows)


def check_paths_grid(result: CheckResult, *, limit: int | None) -> Grid:
    """Return the files that the findings name, at most `limit` for each."""
    rows = [
        (row.code, path)
        for row in result.findings
        if row.level != "pass"
        for path in (row.paths if limit is None else row.paths[:limit])
    ]
    return Grid("Files", (Column("what"), Column("file")), tuple(rows))


SUMMARY_HEADER = (
    "backbone",
    "image_height",
    "image_width",
    "classes",
    "head",
    "feature_map",
    "backbone_parameters",
    "head_parameters",
    "total_parameters",
    "trainable_parameters",
    "head_flops",
    "total_flops",
    "size_mb",
)


def summary_grids(summary: Summary) -> list[Grid]:
    """Return a table per backbone and image size, with every head beside GAP."""
    groups: dict[tuple[str, int, int, int], list[SummaryRow]] = {}
    for row in summary.rows:
        groups.setdefault((row.backbone, row.image_height, row.image_width, row.classes), []).append(row)
    return [_summary_grid(key, rows) for key, rows in groups.items()]


def _summary_grid(key: tuple[str, int, int, int], rows: Sequence[SummaryRow]) -> Grid:
    name, height, width, classes = key
    gap = next((row.head_parameters for row in rows if row.head == "gap"), None)
    timed = any(row.latency_ms is not None for row in rows)
    columns = [
        Column("head"),
        Column("head parameters", N),
        Column("to GAP", N),
        Column("total parameters", N),
        Column("head MFLOPs", N),
        Column("total GFLOPs", N),
        Column("MB", N),
    ]
    if timed:
        columns.append(Column("ms per image", N))
    cells = []
    for row in rows:
        line = [
            row.head,
            f"{row.head_parameters:,}",
            f"{row.head_parameters / gap:.2f}x" if gap else "-",
            f"{row.total_parameters:,}",
            f"{row.head_flops / 1e6:,.2f}",
            f"{row.total_flops / 1e9:,.3f}",
            f"{row.size_mb:,.1f}",
        ]
        cells.append((*line, decimal(row.latency_ms, 2)) if timed else tuple(line))
    map_height, map_width, channels = rows[0].feature_map
    title = f"{name} · {height}x{width} pixels · {classes:,} classes"
    caption = f"feature map {map_height}x{map_width}x{channels}; backbone {rows[0].backbone_parameters:,} parameters"
    return Grid(title, tuple(columns), tuple(cells), caption)


def summary_header(summary: Summary) -> tuple[str, ...]:
    """Return the columns of the CSV; latency is one of them only when it was measured."""
    timed = any(row.latency_ms is not None for row in summary.rows)
    return (*SUMMARY_HEADER, "latency_ms") if timed else SUMMARY_HEADER


def summary_rows(summary: Summary) -> list[list[object]]:
    """Return the rows of the CSV."""
    return [
        [
            "x".join(map(str, row.feature_map)) if name == "feature_map" else getattr(row, name)
            for name in summary_header(summary)
        ]
        for row in summary.rows
    ]


def data_grid(plan: TrainingPlan) -> Grid:
    """Return the images per class and split."""
    splits = list(plan.counts)
    rows = [
        (name, *(f"{plan.counts[split][label]:,}" for split in splits)) for label, name in enumerate(plan.class_names)
    ]
    total = ("all", *(f"{sum(plan.counts[split]):,}" for split in splits))
    return Grid("Data", (Column("class"), *(Column(split, N) for split in splits)), (*rows, total))


def model_grid(plan: TrainingPlan) -> Grid:
    """Return the model to be trained."""
    height, width, channels = plan.feature_map
    loaded = "random" if plan.loaded_tensors is None else f"{plan.loaded_tensors:,} tensors loaded"
    rows = (
        ("image size", f"{plan.image_size[0]}x{plan.image_size[1]}"),
        ("backbone", f"{plan.backbone}, {plan.backbone_parameters:,} parameters, weights: {loaded}"),
        ("feature map", f"{height}x{width}x{channels}"),
        ("head", "; ".join(filter(None, (f"{plan.head}, {plan.head_parameters:,} parameters", plan.head_start)))),
        ("training", f"{counted(plan.epochs, 'epoch')} of {counted(plan.steps_per_epoch, 'step')}"),
    )
    return Grid("Model", (Column(""), Column("")), rows)


def epoch_line(row: EpochResult, *, total: int, is_best: bool) -> str:
    """Return a finished epoch as one line."""
    parts = [
        f"epoch {row.epoch:>{len(str(total))}}/{total}",
        f"loss {row.loss:.4f}",
        f"top-1 {percent(row.top1_accuracy)}",
    ]
    if row.val_loss is not None:
        parts += [f"val loss {row.val_loss:.4f}", f"val top-1 {percent(row.val_top1_accuracy)}"]
    parts += [f"lr {row.learning_rate:.2e}", f"{row.epoch_seconds:.1f} s"]
    return "  ".join(parts) + ("  best" if is_best else "")


def training_grid(result: TrainingResult) -> Grid:
    """Return what a training came to."""
    rows = [("run directory", result.run_dir), ("epochs", str(len(result.history)))]
    if result.best_epoch is not None:
        rows.append(("best epoch", str(result.best_epoch)))
    if result.metrics is not None:
        rows += [
            ("top-1 accuracy (validation)", percent(result.metrics.top1_accuracy)),
            ("macro F1 (validation)", percent(result.metrics.macro_f1)),
            ("validation images", f"{result.metrics.examples:,}"),
        ]
    rows += [("parameters", f"{result.parameters:,}"), ("of the head", f"{result.head_parameters:,}")]
    return Grid("Training", (Column(""), Column("", N)), tuple(rows))
