"""The model card of a run agrees with the run's files, and an edited card is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from command_line import CommandLine, Trained
from image_folders import Heard

from wisesr_cli.evaluation.card import update_card
from wisesr_cli.model_files.archive import read_model_info
from wisesr_cli.run.run import Run


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    return trained.copy_to(tmp_path / "run")


def front_matter(card: Path) -> dict:
    text = card.read_text(encoding="utf-8")
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))


def test_training_writes_the_card_and_evaluation_adds_its_metrics(wisesr: CommandLine, run: Path) -> None:
    assert (run / "README.md").is_file()
    found = json.loads(wisesr("evaluate", run, "--format", "json", "-q").out)
    results = front_matter(run / "README.md")["model-index"][0]["results"]
    by_split = {row["dataset"]["name"]: {m["name"]: m["value"] for m in row["metrics"]} for row in results}
    assert set(by_split) == {"validation", "test"}
    assert by_split["test"]["top-1 accuracy"] == pytest.approx(found["top1_accuracy"], abs=1e-6)
    assert by_split["test"]["macro F1"] == pytest.approx(found["macro_f1"], abs=1e-6)
    validation = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert by_split["validation"]["log loss"] == pytest.approx(validation["log_loss"], abs=1e-6)
    text = (run / "README.md").read_text(encoding="utf-8")
    rows = (run / "splits.csv").read_text(encoding="utf-8").splitlines()[1:]
    blue = {split: sum(f",blue,{split}" in row for row in rows) for split in ("train", "validation", "test")}
    assert f"| blue | {blue['train']} | {blue['validation']} | {blue['test']} |" in text
    assert "Few training images (below 50): blue, green, red." in text
    assert "It was not evaluated on a test split" not in text


def test_an_edited_card_is_kept_with_a_message(wisesr: CommandLine, run: Path) -> None:
    (run / "README.md").write_text("my own words\n", encoding="utf-8")
    answer = wisesr("evaluate", run)
    assert "README.md was not written by wisesr, or was edited, and is left unchanged" in " ".join(answer.err.split())
    assert (run / "README.md").read_text(encoding="utf-8") == "my own words\n"


def test_a_damaged_run_gets_no_card_but_a_warning(run: Path) -> None:
    info = read_model_info(run / "best.keras")
    (run / "README.md").unlink()
    (run / "metrics.json").write_text("{", encoding="utf-8")
    heard = Heard()
    update_card(Run(run), info, heard)
    assert not (run / "README.md").exists()
    assert heard.warnings[0].startswith("no model card: ")


def test_the_readme_of_an_export_has_the_front_matter_of_the_card(
    wisesr: CommandLine, run: Path, tmp_path: Path
) -> None:
    assert wisesr("export", run, "--to", "keras", "-o", tmp_path / "out").code == 0
    exported = front_matter(tmp_path / "out" / "README.md")
    assert exported == front_matter(run / "README.md")
    assert exported["pipeline_tag"] == "image-classification"


def test_the_card_of_a_copied_run_is_rewritten_with_its_new_name(
    wisesr: CommandLine, trained: Trained, run: Path
) -> None:
    before = (run / "README.md").read_text(encoding="utf-8")
    assert "# run" not in before  # the copy has the card of the original
    update_card(Run(run), read_model_info(run / "best.keras"), Heard())
    assert "\n# run\n" in (run / "README.md").read_text(encoding="utf-8")
