"""The tables of a training, and the line of an epoch."""

from __future__ import annotations

from wisesr_cli.display.grid import Grid, numbers, percent, texts
from wisesr_cli.listening import TrainingPlan
from wisesr_cli.results.evaluation import MultilabelMetrics
from wisesr_cli.results.training import EpochResult, TrainingResult
from wisesr_cli.text import counted


def data_grid(plan: TrainingPlan) -> Grid:
    """Return the images per class and split."""
    splits = list(plan.counts)
    rows = [
        (name, *(f"{plan.counts[split][label]:,}" for split in splits)) for label, name in enumerate(plan.class_names)
    ]
    total = ("all", *(f"{plan.images[split]:,}" for split in splits))
    return Grid("Data", (*texts("class"), *numbers(*splits)), (*rows, total))


def model_grid(plan: TrainingPlan) -> Grid:
    """Return the model to be trained."""
    height, width, channels = plan.feature_map
    rows = (
        ("image size", f"{plan.image_size[0]}x{plan.image_size[1]}"),
        ("scaling of pixels", plan.scaling),
        ("backbone", f"{plan.backbone}, {plan.backbone_parameters:,} parameters, weights: {plan.origin or 'random'}"),
        ("feature map", f"{height}x{width}x{channels}"),
        ("head", "; ".join(filter(None, (f"{plan.head}, {plan.head_parameters:,} parameters", plan.head_start)))),
        ("training", f"{counted(plan.epochs, 'epoch')} of {counted(plan.steps_per_epoch, 'step')}"),
        ("trained", "; then ".join(plan.trained)),
    )
    return Grid("Model", texts("", ""), rows)


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
    """Return the result of a training."""
    rows = [("run directory", result.run_dir), ("epochs", str(len(result.history)))]
    if result.best_epoch is not None:
        rows.append(("best epoch", str(result.best_epoch)))
    if isinstance(result.metrics, MultilabelMetrics):
        rows += [
            ("mean average precision (validation)", percent(result.metrics.mean_average_precision)),
            ("micro F1 (validation)", percent(result.metrics.micro_f1)),
            ("validation images", f"{result.metrics.examples:,}"),
        ]
    elif result.metrics is not None:
        rows += [
            ("top-1 accuracy (validation)", percent(result.metrics.top1_accuracy)),
            ("macro F1 (validation)", percent(result.metrics.macro_f1)),
            ("validation images", f"{result.metrics.examples:,}"),
        ]
    rows += [("parameters", f"{result.parameters:,}"), ("of the head", f"{result.head_parameters:,}")]
    return Grid("Training", (*texts(""), *numbers("")), tuple(rows))
