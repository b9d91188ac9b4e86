"""Images of more than 8 bits, end to end: one value range, from training to every command (promise 56)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import QUICK, CommandLine
from PIL import Image
from quick_trainings import line
from reliability import Seen

from wisesr_cli.config.schema import Config
from wisesr_cli.model_files.archive import read_model_info
from wisesr_cli.run.progress import config_for_comparison

pytestmark = pytest.mark.usefixtures("empty_folder")


def scans(root: Path, factor: int = 1) -> Path:
    """Write dark and bright 12-bit images stored in 16 bits, whose upper 8 bits hardly differ."""
    rng = np.random.default_rng(1)
    for number in range(24):
        level = 300 if number % 2 else 2_400
        values = np.clip(rng.normal(level, 80, (40, 40)), 0, 4_095) * factor
        path = root / ("dark" if number % 2 else "bright") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values.astype(np.uint16)).save(path)
    return root


@pytest.mark.reliability(56)
def test_a_measured_range_is_recorded_and_used_by_every_command(
    wisesr: CommandLine, tmp_path: Path, seen: Seen
) -> None:
    photos, runs = scans(tmp_path / "scans"), tmp_path / "runs"
    answer = wisesr(*line(photos, runs))
    assert answer.code == 0, answer.err
    run = runs / "tiny"
    assert "12 bits used" in answer.err
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["value_range"] == [0.0, 4095.0]
    assert config["data"]["color"] == "srgb"
    info = read_model_info(run / "best.keras")
    assert info.preparation.value_range == (0.0, 4095.0)
    resumed = wisesr(*line(photos, runs, "--resume", epochs=3))
    assert resumed.code == 0, resumed.err
    changed = wisesr(*line(photos, runs, "--resume", "-s", "data.value_range=full", epochs=4))
    assert changed.code == 4
    assert "data.value_range: [0.0, 4095.0] -> full" in changed.err
    # Both engines, with a run or only its model file, prepare pixels in the same way, so their scores agree.
    scores = [
        [record["score"] for record in map(json.loads, wisesr("predict", model, photos, *more).out.splitlines())]
        for model, more in ((run, ()), (run / "best.keras", ("--engine", "keras")))
        for more in [(*more, "--format", "jsonl")]
    ]
    assert np.allclose(scores[0], scores[1], atol=1e-5)
    assert len(scores[0]) == 24
    seen("0 to 4,095 measured, in config.yaml and the model; resumed; another range: exit 4; two engines agree")


@pytest.mark.reliability(56)
def test_a_comparison_measures_the_range_once_and_keeps_it(wisesr: CommandLine, tmp_path: Path) -> None:
    photos = scans(tmp_path / "scans")
    options = ["--heads", "gap,wise", "--seeds", "0,", "-o", tmp_path / "runs", "--name", "both"]
    answer = wisesr("compare", photos, *QUICK, "--epochs", "1", *options)
    assert answer.code == 0, answer.err
    assert answer.err.count("12 bits used") == 1
    for folder in (tmp_path / "runs" / "both").glob("*-seed0"):
        assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["value_range"] == [0.0, 4095.0]


@pytest.mark.reliability(56)
def test_a_run_of_an_earlier_version_resumes_with_the_full_range(
    wisesr: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, run = scans(tmp_path / "scans"), tmp_path / "runs" / "tiny"
    new = {"data.value_range", "data.color"}

    def of_earlier_versions(config: Config) -> dict[str, object]:
        return {key: value for key, value in config_for_comparison(config).items() if key not in new}

    with monkeypatch.context() as patch:
        patch.setattr("wisesr_cli.training.trainer.config_for_comparison", of_earlier_versions)
        assert wisesr(*line(photos, run.parent, "-s", "data.value_range=full", "-s", "data.color=as_is")).code == 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["data"]["value_range"], config["data"]["color"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    answer = wisesr(*line(photos, run.parent, "--resume", epochs=3))
    assert answer.code == 0, answer.err
    assert read_model_info(run / "best.keras").preparation.value_range is None
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["value_range"] == "full"
