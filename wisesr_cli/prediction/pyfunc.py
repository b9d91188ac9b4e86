"""Lets MLflow load a logged model: `mlflow.pyfunc.load_model("runs:/ID/model").predict(paths)`.

The file `MLmodel` next to the model names this module; MLflow calls `_load_pyfunc` with the path of best.keras.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wisesr_cli.errors import UsageError
from wisesr_cli.prediction.predict import predict
from wisesr_cli.requests import PredictRequest

PATH = "path"  # the column of image files


class LabelsImages:
    """A model that labels image files, in MLflow's `python_function` flavour."""

    def __init__(self, model: Path) -> None:
        self.model = model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> Any:
        """Return a DataFrame with path, label, score and error, one row per image file.

        Args:
            model_input: paths: a list, an array, or a DataFrame of one column or with one called `path`.
            params: `min_score`, `top_k` and `batch_size` as `wisesr predict` takes them.

        Raises:
            UsageError: it is not clear which column of a DataFrame has the paths, or a parameter is unknown.
        """
        import pandas as pd  # MLflow's own dependency

        given = params or {}
        if unknown := sorted(given.keys() - {"min_score", "top_k", "batch_size"}):
            raise UsageError(f"params: {unknown[0]} is not known; allowed: min_score, top_k, batch_size")
        request = PredictRequest(self.model, tuple(_paths(model_input)), **given)
        rows = [(row.path, row.label, row.score, row.error) for row in predict(request)]
        return pd.DataFrame(rows, columns=["path", "label", "score", "error"])


def _paths(given: Any) -> Iterable[str]:
    columns = getattr(given, "columns", None)
    if columns is not None:
        if PATH not in columns and len(columns) != 1:
            raise UsageError(f"the table has {len(columns)} columns; name that of the image files '{PATH}'")
        given = given[PATH if PATH in columns else columns[0]]
    return map(str, [given] if isinstance(given, str) else list(given))


def _load_pyfunc(path: str) -> LabelsImages:
    """Return the model in a file; MLflow calls this."""
    return LabelsImages(Path(path))
