"""`wisesr compare --folds`: every training image is predicted once per head, by a training that held it out."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine, make_photo, make_photos, make_splits, rows_of, snapshot
from comparisons import settings_of, without_seconds

import wisesr_cli
from wisesr_cli.comparison import compare as module
from wisesr_cli.comparison.bootstrap import paired_interval
from wisesr_cli.comparison.figures import compare_trainings
from wisesr_cli.comparison.plan import PlannedTraining
from wisesr_cli.comparison.state import ComparisonState, TrainingRecord
from wisesr_cli.config.reader import LoadedConfig
from wisesr_cli.config.schema import Config
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.listening import Silent
from wisesr_cli.results.training import Comparison
from wisesr_cli.run.names import PREDICTIONS, TRAININGS
from wisesr_cli.run.progress import Circumstances
from wisesr_cli.run.records import write_rows
from wisesr_cli.run.run import Run

FOLDS = 2
PER_CLASS, WRONG = 40, 6  # of 120 labels, 5 %


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Comparison]:
    """Return the folder of a comparison over folds, its photos and its result; 5 % of the labels are wrong."""
    folder = tmp_path_factory.mktemp("folded")
    photos = make_splits(folder / "photos", train=PER_CLASS, test=2)
    for number, (label, given) in enumerate(
        [(0, "green"), (0, "red"), (1, "blue"), (1, "red"), (2, "blue"), (2, "green")]
    ):
        make_photo(photos / "train" / given / f"{number:02}.png", label, 900 + number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WISESR_CACHE_DIR", str(tmp_path_factory.mktemp("caches")))
        result = wisesr_cli.compare(photos, settings_of(folder / "runs" / "both"), **ASKED, listener=Silent())
    return folder / "runs" / "both", photos, result


ASKED = {"heads": ("gap", "wise"), "folds": FOLDS, "label_issues": True}


def test_every_training_image_is_predicted_once_per_head_by_a_run_that_held_it_out(
    folded: tuple[Path, Path, Comparison],
) -> None:
    folder, photos, result = folded
    rows = rows_of(folder / "out_of_fold.csv")
    images = sorted(str(path.relative_to(photos)) for path in (photos / "train").rglob("*.png"))
    assert len(images) == 3 * PER_CLASS
    for head in ("gap", "wise"):
        assert sorted(row["path"] for row in rows if row["head"] == head) == images
        for fold in range(FOLDS):
            splits = {path: split for path, _, split in Run(folder / f"{head}-seed0-fold{fold}").read_splits()}
            held = {row["path"] for row in rows if (row["head"], row["fold"]) == (head, str(fold))}
            assert held == {path for path, split in splits.items() if split == "test"}
            assert not any(path.startswith("test/") for path in splits)
    stored = np.load(folder / "out_of_fold.npz")
    assert stored["classes"].tolist() == ["blue", "green", "red"]
    assert stored["probabilities"].shape == (len(rows), 3)
    assert np.allclose(stored["probabilities"].sum(axis=1), 1, atol=1e-6)
    best = stored["classes"][stored["probabilities"].argmax(axis=1)]
    assert best.tolist() == [row["predicted"] for row in rows]
    assert stored["probabilities"].max(axis=1) == pytest.approx([float(row["score"]) for row in rows], abs=1e-6)
    assert result.examples == len(images)
    assert (result.folds, result.split, result.same_examples) == (FOLDS, "held-out folds", True)


def test_the_figures_are_computed_from_the_single_folds(folded: tuple[Path, Path, Comparison]) -> None:
    folder, _, result = folded
    rows = rows_of(folder / "out_of_fold.csv")
    for row in result.rows:
        right = [
            statistics.mean(item["truth"] == item["predicted"] for item in rows if (item["head"], item["fold"]) == of)
            for of in ((row.head, "0"), (row.head, "1"))
        ]
        assert row.top1_accuracy_mean == pytest.approx(statistics.mean(right))
        assert row.top1_accuracy_std == pytest.approx(statistics.stdev(right))
        assert (row.seeds, row.missing_seeds) == ((0,), ())
    written = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert written["folds"] == FOLDS
    assert [item["fold"] for item in written["trainings"]] == [0, 0, 1, 1]
    assert "label_issues" not in written


def test_four_fifths_of_the_wrong_labels_are_in_the_first_tenth_of_the_list(
    folded: tuple[Path, Path, Comparison],
) -> None:
    folder, _, result = folded
    rows = rows_of(folder / "label_issues.csv")
    assert len(rows) == 3 * PER_CLASS
    first = {row["path"] for row in rows[: len(rows) // 10]}
    wrong = {row["path"] for row in rows if Path(row["path"]).stem in {f"{n:02}" for n in range(WRONG)} & planted(row)}
    assert len(wrong) == WRONG
    assert len(first & wrong) >= 0.8 * WRONG
    assert result.label_issues is not None
    assert result.label_issues.suspected == sum(row["suspected"] == "true" for row in rows)
    assert (result.label_issues.sheet is not None) == (folder / "label_issues.png").is_file()


def planted(row: dict[str, str]) -> set[str]:
    """Return the numbers of the images in a row's class folder that show another class."""
    return {"green": {"00", "05"}, "red": {"01", "03"}, "blue": {"02", "04"}}[row["label"]]


def test_resume_of_a_finished_comparison_trains_nothing_and_returns_the_same(
    folded: tuple[Path, Path, Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, photos, result = folded
    before = {name: content for name, content in snapshot(folder).items() if "/" not in name}
    monkeypatch.setattr(module.train, "train", None)
    again = wisesr_cli.compare(photos, settings_of(folder), **ASKED, resume=True, listener=Silent())
    assert again == result
    assert {name: content for name, content in snapshot(folder).items() if "/" not in name} == before


@pytest.mark.slow
def test_lost_probabilities_are_computed_again_without_training(folded: tuple[Path, Path, Comparison]) -> None:
    folder, photos, result = folded
    lost = folder / "wise-seed0-fold1" / "evaluate-test" / "probabilities.npy"
    before = lost.read_bytes()
    lost.unlink()
    again = wisesr_cli.compare(photos, settings_of(folder), **ASKED, resume=True, listener=Silent())
    assert lost.read_bytes() == before
    assert without_seconds(again.to_json()) == without_seconds(result.to_json())


def test_resume_rejects_a_different_number_of_folds(folded: tuple[Path, Path, Comparison], wisesr: CommandLine) -> None:
    folder, photos, _ = folded
    set_to = [word for key, value in settings_of(folder).items() for word in ("-s", f"{key}={value}")]
    line = ["compare", photos, *set_to, "--heads", "gap,wise", "--resume"]
    wisesr(*line, "--folds", "3").failed(4, "data.fold: 0/2 -> 0/3")
    wisesr(*line).failed(4, "data.fold: 0/2 -> null")


def test_folds_accept_one_head_and_groups_and_are_checked_before_training(
    wisesr: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos(tmp_path / "photos", 8)
    monkeypatch.setattr(module, "_train_all", lambda *_: None)
    by_group = ["-s", "data.split_strategy=group", "-s", r"data.group_regex=\d(?=\.)"]
    line = ["compare", photos, "--backbone", "compact_small", "--heads", "wise", "-o", tmp_path / "runs"]
    answer = wisesr(*line, "--folds", "4", *by_group).worked()
    assert answer.said("4 folds of 24 training images (whole groups), each held out once")
    wisesr(*line, "--folds", "9", *by_group).failed(3, "finds 8 groups in 24 images; a split needs at least 9")
    few = make_photos(tmp_path / "few", 2)
    wisesr("compare", few, *line[2:], "--folds", "3").failed(3, "3 classes too small for 3 folds")


# Figures from predictions


def judged(folder: Path, answers: dict[tuple[str, int, int], tuple[list[str], list[bool]]]) -> Comparison:
    """Write the predictions of trainings for their folds and return the comparison of their heads."""
    state = ComparisonState(folder / TRAININGS, Circumstances({}, (), {}, {}, "", 1, ""), 3)
    planned = []
    for (head, seed, fold), (paths, correct) in answers.items():
        config = Config(data=DataConfig(fold=f"{fold}/3"))
        item = PlannedTraining(head, seed, f"{head}-seed{seed}-fold{fold}", LoadedConfig(config, (), ""), fold)
        evaluated = Run(folder / item.run).evaluation_dir("test")
        evaluated.mkdir(parents=True)
        cells = [(path, "a", "a", "1.0", "1.0", str(right).lower()) for path, right in zip(paths, correct, strict=True)]
        write_rows(evaluated / PREDICTIONS, ("path", "truth", "predicted", "score", "truth_score", "correct"), cells)
        state.trainings[item.run] = TrainingRecord(
            (3,),
            is_done=True,
            accuracies=(0.5,),
            epoch_seconds=(1.0,),
            top1_accuracy=float(np.mean(correct)),
            macro_f1=0.5,
            head_parameters=1000,
            total_parameters=5000,
        )
        planned.append(item)
    return compare_trainings(Run(folder), planned, state, "test", folds=3)


def drawn(seeds: int) -> dict[tuple[str, int, int], tuple[list[str], list[bool]]]:
    """Return answers for 30 images, split into three folds differently for every seed."""
    random = np.random.default_rng(0)
    found: dict[tuple[str, int, int], tuple[list[str], list[bool]]] = {}
    for seed in range(seeds):
        dealt = random.permutation(30).reshape(3, 10)
        for fold in range(3):
            for head, chance in (("gap", 0.3), ("wise", 0.8)):
                found[head, seed, fold] = [f"{n:02}" for n in dealt[fold]], (random.random(10) < chance).tolist()
    return found


@pytest.mark.parametrize("seeds", [1, 2])
def test_folds_are_paired_and_their_images_resampled_once_for_all_seeds(tmp_path: Path, seeds: int) -> None:
    answers = drawn(seeds)
    result = judged(tmp_path, answers)
    assert (result.examples, result.same_examples) == (30, True)
    by_training, by_image = [], np.zeros((seeds, 30), int)
    for seed in range(seeds):
        for fold in range(3):
            paths, first = answers["gap", seed, fold]
            by_training.append(np.subtract(answers["wise", seed, fold][1], first, dtype=int))
            by_image[seed, [int(path) for path in paths]] = by_training[-1]
    row = result.rows[1]
    assert row.difference_to_first_mean == pytest.approx(np.mean(by_training))
    expected = paired_interval(by_training, same_examples=True, by_example=list(by_image))
    assert row.difference_to_first_ci95 == expected
    text = "\n".join(result.conclusions)
    assert ("3 folds, 30 examples" if seeds == 1 else "3 folds with 2 seeds, 30 examples") in text
    assert "by more than the choice of fold and images explains" in text
    assert "share most of their images" in text
    assert "--seeds" not in text


def test_a_fold_without_a_result_is_left_out_of_the_pairs(tmp_path: Path) -> None:
    answers = drawn(2)
    del answers["wise", 1, 2]
    row = judged(tmp_path, answers).rows[1]
    assert row.difference_to_first_ci95 is not None
    assert (row.seeds, row.missing_seeds) == ((0, 1), (1,))


def test_the_fold_interval_of_equal_trainings_covers_the_truth_as_often_as_promised() -> None:
    random = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        difference = (random.random(200) < 0.8).astype(int) - (random.random(200) < 0.7)
        folds = np.split(difference, 5)
        low, high = paired_interval(folds, same_examples=True, by_example=[difference], replicates=1000)
        held += low <= 0.1 <= high
    assert held / 200 >= 0.95
