"""The value range of a data set: how it is measured and kept, and which ranges trigger warnings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_folders import Data, Heard, make_folder
from PIL import Image

from wisesr_cli.data.dataset import build_index
from wisesr_cli.data.inspection import inspect_data
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.data.value_range import with_value_range
from wisesr_cli.images.preparation import ValueRange
from wisesr_cli.listening import Silent
from wisesr_cli.results.images import Finding

RNG = np.random.default_rng(5)
WAVES = (np.sin(np.arange(48)[:, None] / 5) * np.cos(np.arange(40) / 7) + 1) / 2  # (48, 40), 0..1


def deep_folder(root: Path, low: float, high: float, kind: str = "u2", outlier: float | None = None) -> Path:
    """Write 12 images of two classes whose values cover a range; one pixel of each may be an outlier."""
    for number in range(12):
        values = low + (WAVES * 0.9 + RNG.random(WAVES.shape) * 0.1) * (high - low)
        if outlier is not None:
            values[number, number] = outlier
        path = root / "ab"[number % 2] / f"{number}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(kind)).save(path)
    return root


def measured(root: Path, **settings: object) -> tuple[object, Heard]:
    heard = Heard()
    data = Data(dir=root, **settings)  # type: ignore[arg-type]
    return with_value_range(data, build_index(data, seed=0, listener=Silent()), heard).value_range, heard


def findings(root: Path, **settings: object) -> dict[str, Finding]:
    data = Data(dir=root, **settings)  # type: ignore[arg-type]
    return {finding.code: finding for finding in inspect_data(data, seed=0, listener=Silent())}


@pytest.mark.parametrize(
    ("low", "high", "kind", "outlier", "expected"),
    [
        (0, 4_095, "u2", None, (0.0, 4095.0)),
        (0, 4_095, "u2", 65_535, (0.0, 4095.0)),  # a dead pixel
        (0, 1_023, "u2", None, (0.0, 1023.0)),
        (0, 200, "u2", None, (0.0, 255.0)),
        (0, 1 << 20, "i4", None, (0.0, 2.0**20 - 1)),
        (0, 65_535, "u2", None, "full"),
        (0, 1, "f4", 1.003, (0.0, 1.0)),
        (-0.01, 1.01, "f4", None, (0.0, 1.0)),
        (0, 250, "f4", None, (0.0, 255.0)),
    ],
)
@pytest.mark.reliability(56)
def test_range_is_the_bit_depth_in_use(
    tmp_path: Path, low: float, high: float, kind: str, outlier: float | None, expected: ValueRange | str
) -> None:
    found, heard = measured(deep_folder(tmp_path, low, high, kind, outlier))
    assert found == expected
    assert len(heard.notes) == 1
    assert ("full depth" if expected == "full" else "become 0 to 255") in heard.notes[0]


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (-1_024, 3_071, "i2"),
        (7_000, 8_500, "u2"),
        (0, 4_095, "f4"),
        (-1, 1, "f4"),
        (1e-9, 3e-9, "f4"),
        (0.4, 0.5, "f4"),
    ],
)
def test_range_of_other_values_is_measured_by_quantiles(tmp_path: Path, low: float, high: float, kind: str) -> None:
    found, _ = measured(deep_folder(tmp_path, low, high, kind))
    assert isinstance(found, tuple)
    assert low <= found[0] < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < found[1] <= high
    rows = findings(tmp_path)
    assert "few-levels" not in rows
    assert "clipped" not in rows


def test_ordinary_images_have_no_measured_range(tmp_path: Path) -> None:
    found, heard = measured(make_folder(tmp_path, {"a": 5, "b": 5}))
    assert found == "full"
    assert not heard.notes
    assert "deep" not in findings(tmp_path)


@pytest.mark.reliability(56)
def test_range_that_loses_levels_or_clips_triggers_a_warning(tmp_path: Path) -> None:
    deep_folder(tmp_path, 0, 4_095)
    rows = findings(tmp_path, value_range="full")
    assert rows["deep"].level == "pass"
    assert rows["few-levels"].level == "warn"
    assert rows["few-levels"].count == 12
    assert "12 images with more values keep fewer than 32 of 256 grey levels" in rows["few-levels"].message
    assert "clipped" not in rows
    rows = findings(tmp_path, value_range=[0, 1_000])
    assert rows["clipped"].count == 12
    assert rows["clipped"].paths[0].startswith("a/")
    rows = findings(tmp_path)
    assert "0 to 4,095 become 0 to 255 (12 bits used)" in rows["deep"].message
    assert {"few-levels", "clipped"}.isdisjoint(rows)


def test_mask_of_two_values_triggers_no_warning_of_lost_levels(tmp_path: Path) -> None:
    for number in range(12):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(((RNG.random((30, 30)) > 0.5) * 65_535).astype(np.uint16)).save(path)
    assert "few-levels" not in findings(tmp_path, value_range="full")


def test_resume_keeps_the_choices_of_the_run_and_full_depth_of_earlier_versions() -> None:
    data = DataConfig()
    assert data.as_begun({}).preparation == DataConfig(value_range="full", color="as_is").preparation
    before = {"value_range": [0.0, 4095.0], "color": "srgb"}
    assert data.as_begun(before).value_range == (0.0, 4095.0)
    assert data.as_begun(before).color == "srgb"
    assert DataConfig(value_range="full").as_begun(before).value_range == "full"
    assert DataConfig(color="as_is").as_begun(before).color == "as_is"
