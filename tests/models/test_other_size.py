"""A trained model at another image size: what it computes, what it rejects, and what the commands write."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import CommandLine, Trained
from run_states import load_engine

from wisesr_cli import api
from wisesr_cli.config.reader import parse_head
from wisesr_cli.engines import choose
from wisesr_cli.engines.choose import choose_engine
from wisesr_cli.errors import UsageError
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.listening import Silent
from wisesr_cli.machine import keras_start
from wisesr_cli.model_files.archive import append_model_info, check_model, read_model_info
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.model_files.loading import build_without_values, copy_weights
from wisesr_cli.models.backbones import build_backbone
from wisesr_cli.models.build import build_classifier
from wisesr_cli.models.costs_table import BACKBONE_SIZES
from wisesr_cli.models.image_sizes import check_image_size, check_map, needs_of, smallest_side
from wisesr_cli.models.other_size import _rebuild, at_size, check_size
from wisesr_cli.models.settings import ModelConfig
from wisesr_cli.prediction.predict import header_of
from wisesr_cli.requests import PredictRequest
from wisesr_cli.run.located import locate

SIZE = (56, 40)  # a map of 7x5
OTHERS = ((88, 36), (57, 72))  # maps of 11x5, 8x9
GAP_LIKE = (
    "gap",
    "depthwise",
    "depthwise:constraint=unit_sum",
    "wise",
    "wise:pre_pool=2",
    "wise:constraint=unit_sum:pre_pool=2",
    "wise:constraint=none:pre_pool=3",
)
FLATTEN = ("flatten", "flatten:pre_pool=2", "flatten:pre_pool=3:pooling=valid")


@pytest.fixture(scope="module", autouse=True)
def _started() -> None:
    keras_start.start("cpu", precision="float32")


def build(head: str, size: tuple[int, int] = SIZE, backbone: str = "compact_small") -> Any:
    """Return a classifier whose backbone is the same for every head and size."""
    config = ModelConfig(backbone=backbone, head=parse_head(head))
    model = build_classifier(config, image_size=size, classes=3).model
    draws = np.random.default_rng(0)
    for layer in flat_layers(model.get_layer("backbone")):
        if isinstance(layer, keras.layers.BatchNormalization):
            ranges = ((0.5, 1.5), (-0.2, 0.2), (-0.2, 0.2), (0.5, 1.5))  # gamma, beta, mean, variance
            layer.set_weights([draws.uniform(*limits, layer.gamma.shape) for limits in ranges])
    return model


def flat_layers(model: Any) -> list[Any]:
    return [part for layer in model.layers for part in (flat_layers(layer) if hasattr(layer, "layers") else [layer])]


def draw_pixels(size: tuple[int, int], count: int = 3) -> Any:
    return np.random.default_rng(5).integers(0, 256, (count, *size, 3)).astype("float32")


def feature_maps(model: Any, pixels: Any) -> Any:
    """Return the output of a classifier's backbone."""
    number = [layer.name for layer in model.layers].index("backbone")
    return keras.Model(model.inputs[0], model.layers[number + 1].input).predict_on_batch(pixels)


def save(model: Any, path: Path, head: str, size: tuple[int, int] = SIZE, backbone: str = "compact_small") -> Path:
    info = ModelInfo(("a", "b", "c"), size, Preparation(), (255, 255, 255), backbone, parse_head(head).name, 1, {})
    model.save(path)
    append_model_info(path, info)
    return path


# --- what it computes ---


@pytest.mark.parametrize("head", GAP_LIKE)
def test_a_head_equivalent_to_gap_stays_so_at_any_size(head: str) -> None:
    model = build(head)
    kernel, bias = model.get_layer("classifier").get_weights()
    for size in OTHERS:
        pixels, rebuilt = draw_pixels(size), at_size(model, size)
        at_that_size = build("gap", size)  # with the same backbone, built for that size
        gap = feature_maps(at_that_size, pixels).astype("float64").mean(axis=(1, 2))
        assert gap.std(axis=0).max() > 1e-3  # images must differ for this to prove anything
        np.testing.assert_allclose(rebuilt.predict_on_batch(pixels), gap @ kernel + bias, atol=1e-5)


def test_valid_pooling_is_gap_over_the_kept_positions_at_any_size() -> None:
    model = build("wise:pooling=valid:pre_pool=2")
    kernel, bias = model.get_layer("classifier").get_weights()
    for size in OTHERS:
        pixels = draw_pixels(size)
        features = feature_maps(build("gap", size), pixels).astype("float64")
        kept = features[:, : features.shape[1] // 2 * 2, : features.shape[2] // 2 * 2].mean(axis=(1, 2))
        np.testing.assert_allclose(at_size(model, size).predict_on_batch(pixels), kept @ kernel + bias, atol=1e-5)


def test_a_rebuilt_model_has_the_same_layers_and_its_own_weights() -> None:
    model = build("wise:pre_pool=2")
    model.get_layer("backbone").trainable = False
    before = [weight.copy() for weight in model.get_weights()]
    rebuilt = at_size(model, (64, 96))
    assert [layer.name for layer in rebuilt.layers] == [layer.name for layer in model.layers]
    assert [weight.path for weight in rebuilt.weights] == [weight.path for weight in model.weights]
    assert (rebuilt.input_shape, rebuilt.get_layer("backbone").output_shape) == ((None, 64, 96, 3), (None, 8, 12, 64))
    assert len(rebuilt.trainable_weights) == len(model.trainable_weights)
    rebuilt.set_weights([weight + 1 for weight in rebuilt.get_weights()])
    assert all(np.array_equal(one, other) for one, other in zip(model.get_weights(), before, strict=True))
    assert model.input_shape == (None, *SIZE, 3)


def test_resizing_a_model_there_and_back_restores_it() -> None:
    model, pixels = build("wise:pre_pool=2"), draw_pixels(SIZE)
    back = at_size(at_size(model, (112, 80)), SIZE)
    np.testing.assert_allclose(back.predict_on_batch(pixels), model.predict_on_batch(pixels), atol=1e-6)


@pytest.mark.parametrize(
    ("before", "after"), [((64, 96), (65, 63)), pytest.param((65, 63), (64, 96), marks=pytest.mark.slow)]
)
def test_a_rebuilt_mobilenet_v2_matches_one_built_for_the_size(before: Any, after: Any) -> None:
    rebuilt, pixels = at_size(build("gap", before, "MobileNetV2"), after), draw_pixels(after, 2)
    built = build("gap", after, "MobileNetV2")
    copy_weights(built, rebuilt)
    expected, found = feature_maps(built, pixels), feature_maps(rebuilt, pixels)
    assert expected.std() > 0
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def layers_of(model: Any) -> list[Any]:
    """Return the type, config and output shape of every layer, without its name, which Keras numbers globally."""
    return [
        (type(layer).__name__, {**layer.get_config(), "name": ""}, layer.output.shape) for layer in flat_layers(model)
    ]


FAMILIES = ["compact", "MobileNet", "MobileNetV2", "MobileNetV3Small", "NASNetMobile", "EfficientNetB0"]
FAMILIES += ["EfficientNetV2B0", "DenseNet121", "ResNet50", "ResNet50V2", "Xception", "ConvNeXtTiny"]
FAMILIES += ["InceptionV3", "InceptionResNetV2", "VGG16"]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", FAMILIES)
def test_a_rebuilt_backbone_has_the_layers_that_keras_builds_for_the_size(backbone: str) -> None:
    for before, after in (((96, 96), (97, 111)), ((97, 111), (96, 128))):
        found = build_without_values(
            lambda: _rebuild(build_backbone(backbone, before), after, copies=False)  # noqa: B023
        )
        expected = build_without_values(lambda: build_backbone(backbone, after))  # noqa: B023
        assert layers_of(found) == layers_of(expected)


def test_an_adapted_normalization_is_kept_at_another_size_and_precision(tmp_path: Path) -> None:
    inputs = keras.Input((8, 8, 3), name="pixels")
    scaled = keras.layers.Normalization(name="normalization")(inputs)
    features = keras.layers.GlobalAveragePooling2D()(scaled)
    model = keras.Model(inputs, keras.layers.Dense(3, name="classifier")(features))
    model.get_layer("normalization").set_weights([np.full(3, 100.0), np.full(3, 400.0), np.array(9)])
    model.get_layer("normalization").finalize_state()
    rebuilt, pixels = at_size(model, (16, 8)), np.full((1, 16, 8, 3), 140.0, "float32")
    kernel, bias = model.get_layer("classifier").get_weights()
    expected = np.full((1, 3), 40.0 / 20.0) @ kernel + bias
    np.testing.assert_allclose(rebuilt.predict_on_batch(pixels), expected, atol=1e-5)
    engine = load_engine(save(model, tmp_path / "best.keras", "gap", (8, 8)), "mixed_bfloat16", (16, 8))
    np.testing.assert_allclose(engine.logits(pixels.astype("uint8")), expected, rtol=0.02, atol=0.02)


# --- what it rejects ---


@pytest.mark.parametrize("head", ["flatten", "fc"])
def test_a_head_with_weights_per_position_is_rejected_with_the_reason(head: str) -> None:
    with pytest.raises(UsageError, match="weights for each of 7x5 positions; that image size gives 8x5"):
        at_size(build(head), (64, 40))
    assert at_size(build(head), (55, 39)).input_shape == (None, 55, 39, 3)  # the map is 7x5 again


def test_flatten_after_valid_pooling_works_only_if_the_grid_is_unchanged() -> None:
    model = build("flatten:pre_pool=3:pooling=valid")  # 7x5 -> 2x1
    assert at_size(model, (64, 32)).get_layer("pre_pool").output.shape == (None, 2, 1, 64)
    with pytest.raises(UsageError, match="2x1 positions; that image size gives 3x1"):
        at_size(model, (72, 32))


def test_flatten_after_tile_pooling_keeps_its_grid_at_any_size() -> None:
    model, size = build("flatten:pre_pool=2"), (96, 64)
    pixels = draw_pixels(size)
    features = feature_maps(build("gap", size), pixels)  # 12x8, in a grid of 3x2
    means = features.astype("float64").reshape(3, 3, 4, 2, 4, 64).mean(axis=(2, 4)).reshape(3, -1)
    kernel, bias = model.get_layer("classifier").get_weights()
    np.testing.assert_allclose(at_size(model, size).predict_on_batch(pixels), means @ kernel + bias, atol=1e-5)


def test_a_map_smaller_than_the_grid_is_rejected_with_the_smallest_size_that_works() -> None:
    model = build("wise:pre_pool=2")  # a grid of 3x2
    with pytest.raises(UsageError, match=r"2x2 positions, and the head needs at least 3x2; .* works is 17x17"):
        at_size(model, (16, 16))
    assert at_size(model, (17, 17)).get_layer("backbone").output_shape == (None, 3, 3, 64)


def test_the_check_without_keras_rejects_the_same_sizes_as_keras() -> None:
    answers = set()
    feature_map = BACKBONE_SIZES["compact_small"].feature_map(SIZE)
    for head in ("gmp", "depthwise", "wise:pre_pool=2", "wise:pooling=valid:pre_pool=2", *FLATTEN):
        model = build(head)
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
        info = ModelInfo(("a", "b", "c"), SIZE, Preparation(), (255, 255, 255), "compact_small", head, 1, {})
        for size in ((8, 8), (16, 9), (55, 33), (72, 48)):
            said = [reason(check_image_size, config, info, size), reason(check_size, model, size)]
            said.append(reason(check_map, needs_of(parse_head(head), feature_map), info.backbone, SIZE, size))
            shortened = {text.partition("; the smallest")[0] for text in said}  # with Keras, only squares are tried
            assert len(shortened) == 1, (head, size, said)
            answers |= shortened
    assert {""} < answers


def reason(check: Any, *arguments: Any) -> str:
    try:
        check(*arguments)
    except UsageError as error:
        return str(error)
    return ""


def test_a_size_below_the_backbones_minimum_is_rejected_as_in_training() -> None:
    info = ModelInfo(("a", "b"), (96, 96), Preparation(), (255, 255, 255), "Xception", "gap", 1, {})
    with pytest.raises(UsageError, match="the image size is 64x96, but Xception needs at least 71x71"):
        check_image_size({"config": {}}, info, (64, 96))


def test_a_cut_backbone_is_not_checked_against_the_table_of_full_backbones(tmp_path: Path) -> None:
    config = ModelConfig(backbone="compact_small", feature_layer="patch_relu", head=parse_head("wise:pre_pool=2"))
    model = build_classifier(config, image_size=(32, 32), classes=3).model  # a map of 8x8, a grid of 4x4
    path = save(model, tmp_path / "best.keras", "wise", (32, 32))
    check_image_size(check_model(path).config, read_model_info(path), (16, 16))
    assert at_size(model, (16, 16)).get_layer("backbone").output_shape == (None, 4, 4, 24)
    with pytest.raises(UsageError, match="the smallest image size that works is 13x13"):
        at_size(model, (12, 12))


def test_a_size_whose_feature_maps_need_too_much_memory_is_rejected() -> None:
    with pytest.raises(UsageError, match=r"4096x4096 .* numbers for one image; .* 67,108,864 .*; give a smaller one"):
        at_size(build("gap", backbone="compact"), (4096, 4096))


def test_the_smallest_valid_side_is_found() -> None:
    for smallest in range(1, 40):
        assert smallest_side(lambda side, least=smallest: side >= least, 40) == smallest


# --- engines ---


def test_an_engine_at_another_size_reports_it_and_runs_in_any_precision(trained: Trained) -> None:
    path, pixels = trained.run / "best.keras", draw_pixels((48, 40)).astype("uint8")
    engine = load_engine(path, image_size=(48, 40))
    assert engine.info == replace(read_model_info(path), image_size=(48, 40))
    rounded = load_engine(path, "mixed_bfloat16", (48, 40)).logits(pixels)
    np.testing.assert_allclose(rounded, engine.logits(pixels), atol=0.05)
    assert not np.array_equal(rounded, engine.logits(pixels))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow writes best.tflite")
def test_litert_runs_only_the_size_used_in_training(trained: Trained) -> None:
    class Notes(Silent):
        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, message: str) -> None:
            self.notes.append(message)

    same, other = Notes(), Notes()
    chosen = choose_engine(locate(trained.run), image_size=(32, 32), listener=same)
    assert (chosen.name, chosen.image_size, same.notes) == ("litert", None, [])
    chosen = choose_engine(locate(trained.run), image_size=(48, 32), listener=other)
    assert (chosen.name, chosen.image_size, chosen.identity) == ("keras", (48, 32), "keras at 48x32")
    assert "best.tflite is for the image size used in training, and --image-size 48x32 was given" in other.notes[0]
    with pytest.raises(UsageError, match=r"--engine litert: .* wisesr export .* --to litert --image-size 48x32"):
        choose_engine(locate(trained.run), "litert", image_size=(48, 32), listener=Silent())


# --- commands ---


def test_evaluate_at_another_size_keeps_the_results_for_the_training_size(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    run = trained.copy_to(tmp_path / "run")
    assert wisesr("evaluate", run).code == 0
    before = (run / "evaluate-test" / "metrics.json").read_bytes()
    answer = wisesr("evaluate", run, "--image-size", "48x40", "--format", "json", "--report").worked()
    assert (run / "evaluate-test" / "metrics.json").read_bytes() == before
    folder = run / "evaluate-test-48x40"
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8")) == answer.data
    assert {path.name for path in (run / "plots").iterdir()} >= {
        *("confusion_matrix-test.png", "confusion_matrix-test-48x40.png", "reliability-test-48x40.png")
    }
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "48 x 40 pixels" in page
    assert "the model was trained at another size" in page
    assert "exact on the feature map of 6x5 positions" in page
    assert "no contribution maps" not in answer.err
    engine = load_engine(run / "best.keras", image_size=(48, 40))
    rows = [line.split(",") for line in (folder / "predictions.csv").read_text(encoding="utf-8").splitlines()[1:]]
    records = api.predict(run, [trained.photos / row[0] for row in rows], image_size="48x40", engine="keras")
    assert [(record.label, pytest.approx(record.score, abs=1e-6)) for record in records] == [
        (row[2], float(row[3])) for row in rows
    ]
    assert engine.info.image_size == (48, 40)


def test_predict_at_another_size_changes_the_scores_and_writes_the_same_to_a_file(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    line = ["predict", trained.run, trained.photos / "test", "--format", "jsonl", "--image-size", "40"]
    whole = wisesr(*line)
    assert (whole.code, len(whole.out.splitlines())) == (0, 15)
    assert whole.out != wisesr(*line[:-2]).out
    file = tmp_path / "out.jsonl"
    assert wisesr(*line, "-o", file, "--explain", tmp_path / "maps").code == 0
    assert file.read_text(encoding="utf-8") == whole.out
    assert len(list((tmp_path / "maps").glob("image-*.png"))) == 15


def test_the_image_size_is_part_of_the_journal_header(trained: Trained) -> None:
    run, headers = locate(trained.run), []
    for size in (None, (32, 32), (40, 40), (48, 40)):
        request = PredictRequest(trained.run, engine="keras", image_size=size)
        headers.append(header_of(request, choose_engine(run, "keras", image_size=size, listener=Silent())))
    assert headers[0] == headers[1]
    assert len({str(header) for header in headers}) == 3


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_an_impossible_size_is_a_usage_error_before_keras_starts(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(choose.keras_start, "start", lambda *arguments, **options: pytest.fail("Keras was started"))
    run = tmp_path / "run"
    run.mkdir()
    save(build("flatten"), run / "best.keras", "flatten")
    inputs = ["--data", trained.photos / "test"] if command == "evaluate" else [trained.photos / "test"]
    answer = wisesr(command, run / "best.keras", *inputs, "--image-size", "96")
    assert answer.code == 2
    assert "that image size gives 12x12: flatten and fc work only where these stay the same" in answer.error
    answer = wisesr(command, run / "best.keras", *inputs, "--image-size", "4")
    assert answer.code == 2
    assert answer.error.startswith("wisesr: --image-size 4: data.image_size is '4'")
    assert sorted(path.name for path in run.iterdir()) == ["best.keras"]
