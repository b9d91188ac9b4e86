"""A model logged by the MLflow tracker is loaded by MLflow itself and labels images as `predict` does."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Trained

from wisesr_cli import api
from wisesr_cli.errors import UsageError
from wisesr_cli.prediction.pyfunc import LabelsImages
from wisesr_cli.training.trackers.tracker import TrackedRun


def test_mlflow_loads_the_model_logged_by_the_tracker(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pandas = pytest.importorskip("pandas")
    from wisesr_cli.training.trackers.mlflow import MlflowTracker

    address = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    tracker = MlflowTracker(TrackedRun("a", None, {"train.epochs": 1}, {}), None)
    tracker.keep_model(trained.run / "best.keras")
    tracker.end("finished")
    client = mlflow.MlflowClient(tracking_uri=address)
    kept = {Path(item.path).name for item in client.list_artifacts(tracker.id, "model")}
    assert kept == {"MLmodel", "best.keras", "best.tflite", "requirements.txt"}
    model = mlflow.pyfunc.load_model(client.download_artifacts(tracker.id, "model"))
    images = sorted((trained.photos / "test").rglob("*.*"))[:5]
    found = model.predict(pandas.DataFrame({"path": list(map(str, images))}))
    expected = list(api.predict(trained.run, images))
    assert found["label"].tolist() == [record.label for record in expected]
    assert found["score"].tolist() == pytest.approx([record.score for record in expected])


def test_paths_are_accepted_as_a_list_or_column_and_other_input_is_rejected(trained: Trained) -> None:
    pandas = pytest.importorskip("pandas")
    model = LabelsImages(trained.run / "best.keras")
    image = str(sorted((trained.photos / "test").rglob("*.*"))[0])
    rows = [model.predict(given) for given in ([image], image, pandas.DataFrame({"any": [image]}))]
    assert all(row.equals(rows[0]) for row in rows)
    assert model.predict([image], {"min_score": 1.0})["label"].tolist() == [None]
    with pytest.raises(UsageError, match="the table has 2 columns; name that of the image files 'path'"):
        model.predict(pandas.DataFrame({"a": [image], "b": [image]}))
    with pytest.raises(UsageError, match="params: width is not known"):
        model.predict([image], {"width": 3})
