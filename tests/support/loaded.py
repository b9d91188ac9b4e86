"""Loads the best model of a run for a test."""

from __future__ import annotations

from pathlib import Path

from wisesr_cli.engines.keras import KerasEngine
from wisesr_cli.models.image_sizes import ImageSize
from wisesr_cli.run.located import locate


def load_engine(run: str | Path, precision: str = "float32", image_size: ImageSize | None = None) -> KerasEngine:
    """Return what runs a run directory or a model file on Keras, which has been started before."""
    return KerasEngine(locate(run).checked, precision, image_size)
