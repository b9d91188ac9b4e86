"""The tables of predictions."""

from __future__ import annotations

from collections.abc import Sequence

from wisesr_cli.display.grid import Column, Grid, numbers, percent, score_bar, texts
from wisesr_cli.results import Prediction


def prediction_columns() -> tuple[Column, ...]:
    """Return the columns of a table of predictions."""
    return (*texts("image", "label"), *numbers("score"), *texts("", "next best"))


def prediction_cells(prediction: Prediction) -> tuple[str, ...]:
    """Return one prediction as cells of a table."""
    if prediction.error is not None:
        return prediction.path, "-", "-", "", f"unreadable: {prediction.error}"
    others = ", ".join(f"{top.label} {percent(top.score)}" for top in prediction.top[1:3])
    others += f" ({prediction.note})" if prediction.note is not None else ""
    return prediction.path, prediction.label or "-", percent(prediction.score), score_bar(prediction.score), others


def predictions_grid(predictions: Sequence[Prediction]) -> Grid:
    """Return predictions as one table."""
    return Grid("Predictions", prediction_columns(), tuple(prediction_cells(row) for row in predictions))
