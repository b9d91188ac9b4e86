"""Images with any number of labels: reading tables, splitting, folding, and comparing with an earlier record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from image_folders import Data, Heard
from label_sets import SHAPES, write_label_sets

from wisesr_cli.config.reader import Override, load_config
from wisesr_cli.data.dataset import build_index, scan_folder_for_evaluation
from wisesr_cli.data.folds import check_folds
from wisesr_cli.data.index import DatasetIndex, index_from_rows
from wisesr_cli.data.inspection import inspect_data
from wisesr_cli.data.listing.manifest import read_manifest
from wisesr_cli.data.splits import deal_out
from wisesr_cli.errors import ConfigError, DataError
from wisesr_cli.listening import Silent


def index_of(table: Path, *, seed: int = 0, **options: object) -> DatasetIndex:
    settings = {"label_separator": "|", "validation_split": 0.0, **options}
    return build_index(Data(manifest=table, **settings), seed=seed, listener=Silent())


def labels_by_path(index: DatasetIndex) -> dict[str, str]:
    return {path: label for path, label, _ in index.rows()}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_label_sets(tmp_path_factory.mktemp("shapes"), count=120)


def rewritten(table: Path, folder: Path, name: str, lines: list[str]) -> Path:
    """Write another table of the same images."""
    (folder / name).write_text("\n".join(lines) + "\n")
    for image in table.parent.glob("*.png"):
        if not (folder / image.name).exists():
            (folder / image.name).symlink_to(image)
    return folder / name


def test_labels_are_separated_sorted_and_deduplicated(table: Path, tmp_path: Path) -> None:
    lines = ["path,label", "0000.png,red | blue|red", "0001.png,", "0002.png,|blue|", "0003.png, green"]
    index = index_of(rewritten(table, tmp_path, "own.csv", lines))
    assert index.class_names == ("blue", "green", "red")
    assert labels_by_path(index) == {"0000.png": "blue|red", "0001.png": "", "0002.png": "blue", "0003.png": "green"}
    assert index.counts("train").tolist() == [2, 1, 1]
    assert index.splits["train"].labels.dtype == np.bool_


def test_list_in_json_lines_is_equivalent_to_separated_text(table: Path, tmp_path: Path) -> None:
    as_text = ["path,label", "0000.png,red|blue", "0001.png,", "0002.png,green"]
    rows = [("0000.png", ["red", "blue"]), ("0001.png", []), ("0002.png", "green")]
    as_lists = [json.dumps({"path": path, "label": labels}) for path, labels in rows]
    found = [
        labels_by_path(index_of(rewritten(table, tmp_path, name, lines)))
        for name, lines in (("text.csv", as_text), ("lists.jsonl", as_lists))
    ]
    assert found[0] == found[1] == {"0000.png": "blue|red", "0001.png": "", "0002.png": "green"}


@pytest.mark.parametrize("labels", [["red", 3.5, None, {"a": 1}], ["red|blue"]])
def test_list_of_anything_but_labels_is_rejected_with_its_line(
    table: Path, tmp_path: Path, labels: list[object]
) -> None:
    lines = [json.dumps({"path": "0000.png", "label": labels})]
    with pytest.raises(DataError, match=r"line 1: the label is not text"):
        index_of(rewritten(table, tmp_path, "odd.jsonl", lines))


def test_separator_can_be_set_and_a_wrong_one_is_reported(table: Path, tmp_path: Path) -> None:
    other = rewritten(table, tmp_path, "other.csv", ["path,label", "0000.png,red;blue", "0001.png,blue;green"])
    assert index_of(other, label_separator=";").class_names == ("blue", "green", "red")
    with pytest.raises(DataError, match=r"contain ';'.*--set data.label_separator=';'"):
        index_of(other)


def test_labels_are_single_by_default_with_a_hint_at_multilabel(table: Path, tmp_path: Path) -> None:
    lines = ["path,label", *(f"{number:04d}.png,{('red', 'blue|red')[number % 2]}" for number in range(8))]
    file = rewritten(table, tmp_path, "single.csv", lines)
    heard = Heard()
    index = build_index(Data(manifest=file, validation_split=0.0), seed=0, listener=heard)
    assert index.class_names == ("blue|red", "red")
    assert any("model.task=multilabel" in note for note in heard.notes)
    findings = inspect_data(Data(manifest=file), seed=0, listener=Silent())
    (finding,) = [row for row in findings if row.code == "several-labels"]
    assert "'blue|red' is read as one label" in finding.message


def test_empty_label_is_an_error_that_suggests_multilabel(table: Path) -> None:
    with pytest.raises(DataError, match=r"no label.*--set model.task=multilabel"):
        read_manifest(table)


def test_index_is_restored_from_its_rows(table: Path) -> None:
    index = index_of(table)
    again = index_from_rows(index.root, index.class_names, index.rows(), index.separator)
    assert (again.splits["train"].labels == index.splits["train"].labels).all()
    assert list(again.rows()) == list(index.rows())


def test_validation_holds_its_fraction_of_every_class(table: Path) -> None:
    index = index_of(table, validation_split=0.25)
    validation, total = index.counts("validation"), index.counts("validation") + index.counts("train")
    assert np.abs(validation - 0.25 * total).max() <= 1
    assert abs(len(index.splits["validation"]) - 30) <= 2
    other = index_of(table, validation_split=0.25, seed=1)
    assert set(other.splits["validation"].paths) != set(index.splits["validation"].paths)
    assert index_of(table, validation_split=0.25).splits["validation"].paths == index.splits["validation"].paths


def test_label_of_one_image_stays_in_training_and_of_two_images_is_in_both_splits(table: Path, tmp_path: Path) -> None:
    rare = {"0007.png": "unique|red", "0011.png": "pair", "0012.png": "pair|blue"}
    lines = ["path,label", *(f"{n:04d}.png,{rare.get(f'{n:04d}.png', SHAPES[n % 4])}" for n in range(40))]
    file = rewritten(table, tmp_path, "rare.csv", lines)
    for seed in range(5):
        index = index_of(file, validation_split=0.2, seed=seed)
        counts = dict(zip(index.class_names, index.counts("train").tolist(), strict=True))
        assert (counts["unique"], counts["pair"]) == (1, 1)


def test_deal_out_meets_its_targets_better_than_chance() -> None:
    random = np.random.default_rng(0)
    rarity = np.array([0.5, 0.2, 0.05, 0.02])
    labels = random.random((1000, 4)) < rarity
    paths = [f"{number:04d}" for number in range(1000)]
    shares = np.full((5, 1), 0.2)
    parts = deal_out(paths, labels, shares * labels.sum(axis=0), np.full(5, 200.0), np.random.default_rng(1))
    sizes = np.bincount(parts, minlength=5)
    counts = np.stack([labels[parts == part].sum(axis=0) for part in range(5)])
    assert sizes.sum() == 1000
    assert np.ptp(sizes) <= 10
    assert np.ptp(counts, axis=0).max() <= 2
    drawn = random.permutation(1000) % 5
    by_chance = np.stack([labels[drawn == part].sum(axis=0) for part in range(5)])
    assert np.ptp(counts, axis=0).sum() < np.ptp(by_chance, axis=0).sum()


def test_deal_out_does_not_depend_on_the_order_of_images() -> None:
    labels = np.random.default_rng(3).random((60, 3)) < 0.3
    paths = [f"{number:02d}" for number in range(60)]
    order = np.random.default_rng(4).permutation(60)
    wanted = np.array([[0.7], [0.3]]) * labels.sum(axis=0)
    first = deal_out(paths, labels, wanted, np.array([42.0, 18.0]), np.random.default_rng(5))
    shuffled = [paths[position] for position in order]
    second = deal_out(shuffled, labels[order], wanted, np.array([42.0, 18.0]), np.random.default_rng(5))
    assert (second == first[order]).all()


def test_folds_hold_out_every_image_once(table: Path) -> None:
    data = Data(manifest=table, label_separator="|", validation_split=0.2, fold="0/4")
    index = build_index(data, seed=0, listener=Silent())
    assert check_folds(data, index, (0,)) == 120
    held_out = [
        build_index(data.model_copy(update={"fold": f"{number}/4"}), seed=0, listener=Silent()).splits["test"].paths
        for number in range(4)
    ]
    assert sorted(path for paths in held_out for path in paths) == [f"{number:04d}.png" for number in range(120)]


def test_record_detects_an_added_label(table: Path, tmp_path: Path) -> None:
    before = index_of(table)
    lines = table.read_text(encoding="utf-8").splitlines()
    changed = [line + ("|red" if line.startswith("0001.png") and "red" not in line else "") for line in lines]
    assert changed != lines
    after = index_of(rewritten(table, tmp_path, "labels.csv", changed))
    lines_of = after.changes_since(before.record()).lines
    assert [line.partition(":")[0] for line in lines_of] == ["train, images without a label", "train, class 'red'"]
    assert not before.changes_since(before.record()).lines


def test_record_detects_that_an_image_lost_its_only_label(table: Path, tmp_path: Path) -> None:
    lines = ["path,label", "0000.png,red", "0001.png,blue", "0002.png,red"]
    before = index_of(rewritten(table, tmp_path, "a.csv", lines))
    after = index_of(rewritten(table, tmp_path, "b.csv", [*lines[:3], "0002.png,"]))
    found = after.changes_since(before.record()).lines
    assert any("images without a label: 0 files before, 1 now" in line for line in found)


def test_evaluation_needs_a_table_with_known_labels(table: Path, tmp_path: Path) -> None:
    judged = scan_folder_for_evaluation(table, SHAPES, on_error="fail", separator="|", listener=Silent())
    assert judged.splits["test"].labels.shape == (120, 4)
    with pytest.raises(DataError, match="class folders cannot express"):
        scan_folder_for_evaluation(table.parent, SHAPES, on_error="fail", separator="|", listener=Silent())
    unknown = rewritten(table, tmp_path, "unknown.csv", ["path,label", "0000.png,red|purple"])
    with pytest.raises(DataError, match="does not know: 'purple'"):
        scan_folder_for_evaluation(unknown, SHAPES, on_error="fail", separator="|", listener=Silent())


def test_identical_files_with_different_label_sets_are_found(table: Path, tmp_path: Path) -> None:
    lines = ["path,label", "0000.png,red|blue", "copy.png,red", "0001.png,green", "0002.png,blue"]
    file = rewritten(table, tmp_path, "copies.csv", lines)
    (tmp_path / "copy.png").write_bytes((table.parent / "0000.png").read_bytes())
    data = Data(manifest=file, label_separator="|", validation_split=0.0)
    (finding,) = [row for row in inspect_data(data, seed=0, listener=Silent()) if row.code == "duplicates"]
    assert finding.level == "fail"
    assert "0000.png (train, blue|red) = copy.png (train, red)" in finding.message


def test_check_counts_images_without_labels_and_reports_a_constant_label(table: Path, tmp_path: Path) -> None:
    data = Data(manifest=table, label_separator="|")
    found = {row.code: row for row in inspect_data(data, seed=0, listener=Silent())}
    assert "without any" in found["label-sets"].message
    lines = ["path,label", *(f"{number:04d}.png,always|{SHAPES[number % 4]}" for number in range(20))]
    constant = Data(manifest=rewritten(table, tmp_path, "constant.csv", lines), label_separator="|")
    found = {row.code: row for row in inspect_data(constant, seed=0, listener=Silent())}
    assert "every training image has always" in found["constant-label"].message


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"data.label_separator": ";"}, "model.task is single"),
        ({"model.task": "multilabel", "data.dir": "photos"}, "class folders name one label per image"),
        ({"model.task": "multilabel", "augment": {"mixup": 0.2}}, "augment.mixup mixes images of one label each"),
    ],
)
def test_mutually_exclusive_settings_are_rejected(settings: dict[str, object], expected: str) -> None:
    overrides = [Override(tuple(key.split(".")), value, key) for key, value in settings.items()]
    with pytest.raises(ConfigError, match=expected):
        load_config(None, overrides)


def test_task_determines_separator_and_best_by_unless_they_are_set() -> None:
    task = Override(("model", "task"), "multilabel", "task")
    config = load_config(None, [task]).config
    assert (config.data.label_separator, config.train.best_by) == ("|", "loss")
    others = [Override(("data", "label_separator"), ";", ";"), Override(("train", "best_by"), "top1_accuracy", "best")]
    config = load_config(None, [task, *others]).config
    assert (config.data.label_separator, config.train.best_by) == (";", "top1_accuracy")
    assert load_config(None, []).config.data.label_separator is None
