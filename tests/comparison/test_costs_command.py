"""The costs reported by `wisesr summarize` equal those counted by Keras and by hand."""

from __future__ import annotations

import csv
import io
import re
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine, Trained

from wisesr_cli.config.reader import parse_head
from wisesr_cli.machine import keras_start
from wisesr_cli.models.at_hand import own_name
from wisesr_cli.models.build import build_classifier
from wisesr_cli.models.flops import count_flops
from wisesr_cli.models.heads import HEADS
from wisesr_cli.models.released import RELEASES
from wisesr_cli.models.settings import ModelConfig


def rows_of(wisesr: CommandLine, *arguments: object) -> list[dict[str, Any]]:
    answer = wisesr("summarize", *arguments, "--format", "json").worked()
    return answer.data["rows"]


def same(positions: int, stride: int) -> int:
    return ceil(positions / stride)


def compact_flops(side: int) -> int:
    """Return the FLOPs of `compact`, layer by layer: seven 3x3 convolutions."""
    total = 2 * 3 * 3 * 3 * 32 * side * side
    channels = 32
    for filters in (64, 128, 256):
        side = same(side, 2)
        total += 2 * 9 * channels * filters * side * side
        total += 2 * 9 * filters * filters * side * side
        channels = filters
    return total


def compact_parameters() -> int:
    widths = [3, 32, 64, 64, 128, 128, 256, 256]
    pairs = pairwise(widths)
    return sum(9 * before * after + 4 * after for before, after in pairs)  # no bias; batch norm has four per filter


def mobilenet_v2(side: int) -> tuple[int, int]:
    """Return FLOPs and parameters of MobileNetV2 from the table of Sandler et al. (2018)."""
    side = same(side, 2)
    multiply_adds, parameters, channels = 27 * 32 * side * side, 27 * 32 + 4 * 32, 32
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, filters, repeats, first_stride in table:
        for repeat in range(repeats):
            wide = expansion * channels
            if expansion > 1:
                multiply_adds += channels * wide * side * side
                parameters += channels * wide + 4 * wide
            side = same(side, first_stride if repeat == 0 else 1)
            multiply_adds += 9 * wide * side * side + wide * filters * side * side
            parameters += 9 * wide + 4 * wide + wide * filters + 4 * filters
            channels = filters
    multiply_adds += channels * 1280 * side * side
    return 2 * multiply_adds, parameters + channels * 1280 + 4 * 1280


@pytest.mark.parametrize("side", [32, 64, 56])
def test_the_flops_of_compact_equal_a_count_by_hand(wisesr: CommandLine, side: int) -> None:
    (row,) = rows_of(wisesr, "--backbone", "compact", "--image-size", side, "--head", "gap", "--classes", "7")
    assert row["feature_map"] == [side // 8, side // 8, 256]
    assert row["total_flops"] - row["head_flops"] == compact_flops(side)
    assert row["backbone_parameters"] == compact_parameters()
    assert row["head_flops"] == (side // 8) ** 2 * 256 + 2 * 256 * 7


@pytest.mark.parametrize("side", [64, 96])
def test_flops_and_parameters_of_mobilenetv2_equal_the_table_of_its_paper(wisesr: CommandLine, side: int) -> None:
    (row,) = rows_of(wisesr, "--image-size", side, "--head", "gap")
    flops, parameters = mobilenet_v2(side)
    assert row["backbone"] == "MobileNetV2"
    assert row["total_flops"] - row["head_flops"] == flops
    assert row["backbone_parameters"] == parameters


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("compact", (40, 56)),
        ("compact_small", (32, 32)),
        ("MobileNet", (64, 96)),
        ("EfficientNetB0", (64, 64)),
        ("VGG16", (40, 32)),
    ],
)
def test_parameters_equal_those_of_the_keras_model(wisesr: CommandLine, name: str, size: tuple[int, int]) -> None:
    heads = ["wise:pooling=valid"]
    if name == "compact_small":
        heads = [*HEADS, "wise:pooling=valid", "flatten:pre_pool=2"]
    chosen = [word for head in heads for word in ("--head", head)]
    rows = rows_of(wisesr, "--backbone", name, "--image-size", f"{size[0]}x{size[1]}", "--classes", "6", *chosen)
    assert [row["head"] for row in rows] == heads
    keras_start.start("cpu")
    for row in rows:
        config = ModelConfig(backbone=name, head=parse_head(row["head"], base=ModelConfig().head))
        model = build_classifier(config, image_size=size, classes=6).model
        trainable = sum(int(weight.numpy().size) for weight in model.trainable_weights)
        assert (row["image_height"], row["image_width"]) == size
        assert row["total_parameters"] == model.count_params(), row["head"]
        assert row["trainable_parameters"] == trainable, row["head"]
        assert row["backbone_parameters"] + row["head_parameters"] == row["total_parameters"]
        assert row["size_mb"] == pytest.approx(4 * row["total_parameters"] / 1e6)


def test_the_flops_of_a_nested_model_are_the_sum_over_its_layers() -> None:
    keras_start.start("cpu")
    import keras

    inputs = keras.Input((9, 7, 3))
    inner = keras.Sequential([keras.Input((9, 7, 3)), keras.layers.Conv2D(4, (3, 2), strides=2, padding="valid")])
    x = keras.layers.SeparableConv2D(5, 3, padding="same")(inner(inputs))
    x = keras.layers.Conv2D(10, 1, groups=5)(x)
    x = keras.layers.BatchNormalization()(keras.layers.MaxPooling2D(2)(x))
    x = keras.layers.Dense(6)(keras.layers.GlobalAveragePooling2D()(x))
    expected = 2 * (3 * 2 * 3) * (4 * 3 * 4)  # 4x3 positions, 4 filters
    expected += 2 * 9 * (4 * 3 * 4) + 2 * 4 * (4 * 3 * 5)  # depthwise, then pointwise
    expected += 2 * 1 * (4 * 3 * 10)  # each filter sees one channel
    expected += 4 * (2 * 1 * 10) + 2 * 10 + 2 * 10 * 6
    assert count_flops(keras.Model(inputs, x)) == expected


def test_the_default_is_mobilenetv2_with_every_head_10_classes_and_224_pixels(wisesr: CommandLine) -> None:
    rows = rows_of(wisesr)
    assert [row["head"] for row in rows] == list(HEADS)
    assert {(row["backbone"], row["image_height"], row["image_width"], row["classes"]) for row in rows} == {
        ("MobileNetV2", 224, 224, 10)
    }
    assert rows[0]["feature_map"] == [7, 7, 1280]


def test_a_size_below_the_minimum_of_a_backbone_is_skipped_with_a_note(wisesr: CommandLine) -> None:
    line = ("--backbone", "MobileNetV2", "--backbone", "compact", "--image-size", "16", "--image-size", "32x40")
    answer = wisesr("summarize", *line, "--head", "gap", "--format", "json").worked()
    shown = [(row["backbone"], row["image_height"], row["image_width"]) for row in answer.data["rows"]]
    assert shown == [("MobileNetV2", 32, 40), ("compact", 16, 16), ("compact", 32, 40)]
    assert "skipped: data.image_size is 16x16, but MobileNetV2 needs at least 32x32" in answer.err


def test_nothing_left_to_build_is_a_usage_error(wisesr: CommandLine) -> None:
    wisesr("summarize", "--image-size", "16", "--format", "json").refused(2, "needs at least 32x32")


def test_a_feature_map_of_one_position_is_reported_to_make_wise_equal_gap(wisesr: CommandLine) -> None:
    answer = wisesr("summarize", "--image-size", "32", "--head", "wise", "--head", "gap", "--format", "json")
    wise, gap = answer.data["rows"]
    assert wise["feature_map"] == [1, 1, 1280]
    assert wise["head_parameters"] == gap["head_parameters"]
    assert "only one position, so wise equals GAP" in answer.err


def test_a_run_a_config_or_a_folder_can_be_the_source(wisesr: CommandLine, trained: Trained) -> None:
    rows = rows_of(wisesr, trained.run)
    assert [row["head"] for row in rows] == list(HEADS)
    assert {(row["backbone"], row["image_height"], row["classes"]) for row in rows} == {("compact_small", 32, 3)}
    assert rows_of(wisesr, trained.run / "config.yaml") == rows
    overrides = ("--backbone", "compact_small", "--image-size", "32")
    assert rows_of(wisesr, trained.photos, *overrides) == rows
    assert rows_of(wisesr, trained.run, "--classes", "8")[0]["classes"] == 8
    wise = next(row for row in rows if row["head"] == "wise")
    answer = wisesr("train", trained.photos, *overrides, "--dry-run", "-o", trained.run.parent)
    assert f"{wise['head_parameters']:,} parameters" in answer.err


def test_csv_and_table_show_the_numbers_of_the_json(wisesr: CommandLine) -> None:
    line = ("--backbone", "compact_small", "--image-size", "32", "--head", "gap", "--head", "wise")
    rows = rows_of(wisesr, *line)
    cells = list(csv.DictReader(io.StringIO(wisesr("summarize", *line, "--format", "csv").out)))
    for row, found in zip(rows, cells, strict=True):
        assert list(found) == list(row)
        for key, value in row.items():
            text = "" if value is None else str(value)
            assert found[key] == ("x".join(map(str, value)) if key == "feature_map" else text)
    table = wisesr("summarize", *line).out
    for row in rows:
        assert f"{row['head_parameters']:,}" in table
        assert f"{row['total_parameters']:,}" in table
    assert "1.00x" in table


def test_latency_is_measured_only_on_request(wisesr: CommandLine) -> None:
    line = ("--backbone", "compact_small", "--image-size", "32", "--head", "gap")
    (row,) = rows_of(wisesr, *line, "--latency")
    assert 0 < row.pop("latency_ms") < 10_000
    assert [row] == rows_of(wisesr, *line)
    assert "ms per image" in wisesr("summarize", *line, "--latency").out
    plain, timed = (
        wisesr("summarize", *line, "--format", "csv", *more).out.splitlines() for more in ((), ("--latency",))
    )
    assert timed[0] == plain[0] + ",latency_ms"
    assert float(timed[1].rsplit(",", 1)[1]) > 0


def test_several_backbones_and_sizes_share_one_table_with_a_row_each(wisesr: CommandLine) -> None:
    line = ("--backbone", "compact", "--backbone", "compact_small", "--image-size", "32", "--image-size", "64")
    answer = wisesr("summarize", *line, "--head", "gap", "--head", "wise", "--format", "markdown")
    assert [line for line in answer.out.splitlines() if line.startswith("### ")] == ["### Backbones · 10 classes"]
    titles, _, *rows = [line.strip("| ").split(" | ") for line in answer.out.splitlines() if line.startswith("| ")]
    assert [(row[0], row[2]) for row in rows] == [
        *(("compact", "32x32"), ("compact", "64x64"), ("compact\\_small", "32x32"), ("compact\\_small", "64x64"))
    ]
    by_head = {
        (row["backbone"], row["image_height"], row["head"]): row["head_parameters"] for row in rows_of(wisesr, *line)
    }
    for row in rows:
        for head in ("gap", "wise"):
            count = by_head[row[0].replace("\\", ""), int(row[2].split("x")[0]), head]
            assert row[titles.index(f"+ {head}")] == f"{count / 1000:,.1f} k"


def test_the_table_of_all_backbones_is_complete_and_locates_imagenet_weights(
    wisesr: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / own_name("Xception")).touch()
    monkeypatch.setenv("WISESR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    expected = {"compact": None, "compact_small": None, **dict.fromkeys(RELEASES, "download"), "Xception": "here"}
    rows = rows_of(wisesr, "--backbone", "all", "--head", "gap")
    assert {row["backbone"]: row["imagenet_weights"] for row in rows} == expected
    said = wisesr("summarize", "--backbone", "all", "--head", "gap").worked().out
    shown = dict(re.findall(r"^ (\w+) +(here|download|-) ", said, re.MULTILINE))
    assert shown == {name: where or "-" for name, where in expected.items()}


def test_a_backbone_cut_at_a_layer_is_built_in_keras_with_a_note(wisesr: CommandLine) -> None:
    cut = ("-s", "model.backbone=compact", "-s", "model.feature_layer=stage1_relu")
    answer = wisesr("summarize", *cut, "--image-size", "32x40", "--head", "gap", "--format", "json")
    (row,) = answer.data["rows"]
    assert row["feature_map"] == [16, 20, 64]
    assert row["backbone_parameters"] == 9 * 3 * 32 + 4 * 32 + 9 * 32 * 64 + 4 * 64 + 9 * 64 * 64 + 4 * 64
    assert row["total_flops"] - row["head_flops"] == 2 * 9 * (3 * 32 * 1280 + (32 + 64) * 64 * 320)
    assert "building compact in Keras, as model.feature_layer is given" in answer.err


def test_a_feature_layer_applies_to_its_own_backbone_only(wisesr: CommandLine) -> None:
    cut = ("-s", "model.backbone=compact", "-s", "model.feature_layer=stage1_relu", "--image-size", "32")
    whole = rows_of(wisesr, "--backbone", "compact_small", "--image-size", "32")
    both = rows_of(wisesr, *cut, "--backbone", "compact", "--backbone", "compact_small")
    assert both[len(HEADS) :] == whole
    assert both[0]["feature_map"] == [16, 16, 64]


def test_keras_is_started_only_with_a_stated_reason(wisesr: CommandLine) -> None:
    line = ("summarize", "--backbone", "compact_small", "--image-size", "32", "--head", "gap")
    assert wisesr(*line, "--device", "cpu").err == ""
    assert "building compact_small in Keras, as --latency was given" in wisesr(*line, "--latency").err
    other = ("--backbone", "compact", "--latency")
    assert "building 2 backbones in Keras" in wisesr(*line, *other).err
