"""Weights from any kind of file are loaded completely, or the error says where they do not fit."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from served import randomize, same_weights, write_release

from wisesr_cli.errors import ConfigError, MachineError, RunError
from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.model_files.archive import append_model_info, check_model
from wisesr_cli.model_files.info import BEST, ModelInfo
from wisesr_cli.model_files.loading import load_model
from wisesr_cli.models.backbones import build_backbone
from wisesr_cli.models.build import build_classifier
from wisesr_cli.models.heads import GapOptions, WiseOptions
from wisesr_cli.models.released import RELEASES
from wisesr_cli.models.settings import ModelConfig
from wisesr_cli.models.weights import load_backbone, load_start

REAL = os.environ.get("WISESR_TEST_WEIGHTS")
SIZE = (32, 32)
NAME = "MobileNetV2"


def stock(name: str = NAME, *, top: bool = False) -> Any:
    application = getattr(keras.applications, name)
    return randomize(application(include_top=top, weights=None, input_shape=(*SIZE, 3), classes=7))


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stock().save(path := tmp_path_factory.mktemp("weights") / "stock.keras")
    return path


@pytest.fixture(scope="module")
def h5_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stock().save_weights(path := tmp_path_factory.mktemp("weights") / "stock.weights.h5")
    return path


def test_weights_are_random_without_a_source() -> None:
    backbone, source = load_backbone("compact_small", SIZE, None)
    assert source is None
    assert backbone.name == "backbone"


@pytest.mark.parametrize(
    ("name", "suffix", "top"),
    [
        *((NAME, suffix, False) for suffix in ("keras", "weights.h5", "h5")),
        (NAME, "keras", True),
        *(  # despite its extra scaling
            pytest.param("EfficientNetB0", suffix, False, marks=pytest.mark.slow) for suffix in ("keras", "weights.h5")
        ),
    ],
)
def test_a_file_of_a_stock_application_is_loaded(tmp_path: Path, name: str, suffix: str, top: bool) -> None:
    source, path = stock(name, top=top), tmp_path / f"stock.{suffix}"
    # Keras publishes its weights in the older format, .h5.
    source.save_weights(path) if suffix == "weights.h5" else source.save(path)
    backbone, origin = load_backbone(name, SIZE, str(path))
    assert origin is not None
    assert origin.used == len(backbone.weights) == len(source.weights) - (2 if top else 0)
    assert same_weights(backbone, source)


def test_a_run_directory_provides_the_backbone_of_its_best_model(tmp_path: Path) -> None:
    config = ModelConfig(backbone="compact_small", head=WiseOptions())
    classifier = build_classifier(config, image_size=SIZE, classes=3)
    randomize(classifier.backbone)
    classifier.model.save(tmp_path / BEST)
    for source in (tmp_path, tmp_path / BEST):
        backbone, origin = load_backbone("compact_small", (48, 40), str(source))
        assert origin is not None
        assert origin.used == len(backbone.weights) == 15
        assert same_weights(backbone, classifier.backbone)


def test_a_classifier_starts_from_loaded_weights_and_reports_how_many(keras_file: Path) -> None:
    config = ModelConfig(backbone=NAME, weights=str(keras_file), feature_layer="block_6_expand_relu")
    classifier = build_classifier(config, image_size=SIZE, classes=3, steps_per_epoch=5)
    assert classifier.loaded_tensors == len(classifier.backbone.weights) == 95
    assert classifier.feature_map == (4, 4, 192)
    expected = keras.models.load_model(keras_file)
    for layer in classifier.backbone.layers:
        if layer.weights:
            pairs = zip(layer.get_weights(), expected.get_layer(layer.name).get_weights(), strict=True)
            assert all(np.array_equal(*pair) for pair in pairs)
    norm = classifier.backbone.get_layer("bn_Conv1")
    assert norm.momentum == 0.9  # otherwise training would hardly change the loaded statistics


# --- what does not fit ---


def test_a_missing_file_is_an_error_that_says_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"model\.weights: .*nowhere\.keras: no such file; allowed: imagenet, "):
        load_backbone(NAME, SIZE, str(tmp_path / "nowhere.keras"))
    with pytest.raises(RunError, match=r"best\.keras: no such file"):
        load_backbone(NAME, SIZE, str(tmp_path))


def test_a_keras_file_of_another_architecture_is_rejected_with_both_shapes(keras_file: Path) -> None:
    with pytest.raises(
        RunError, match=r"stock\.keras: does not fit .* layer '\w+' of the backbone needs .*and the file has"
    ):
        load_backbone("ResNet50", SIZE, str(keras_file))


def test_a_keras_file_with_a_wrong_shape_is_rejected_with_the_layer(tmp_path: Path) -> None:
    keras.applications.MobileNetV2(
        alpha=0.35, include_top=False, weights=None, input_shape=(*SIZE, 3), name="thin"
    ).save(tmp_path / "thin.keras")
    with pytest.raises(RunError, match=r"the layer 'bn_Conv1' .* tensor \(32,\), and the file has \(16,\)"):
        load_backbone(NAME, SIZE, str(tmp_path / "thin.keras"))


def test_a_keras_file_that_ends_early_is_rejected_with_the_first_missing_layer(tmp_path: Path) -> None:
    whole = stock()
    keras.Model(whole.input, whole.get_layer("out_relu").input).save(tmp_path / "whole.keras")
    keras.Model(whole.input, whole.get_layer("Conv_1").input).save(tmp_path / "cut.keras")
    origin = load_backbone(NAME, SIZE, str(tmp_path / "whole.keras"))[1]
    assert origin is not None
    assert origin.used == 260
    with pytest.raises(RunError, match=r"the layer 'Conv_1\w*' of the backbone needs .* and the file has none"):
        load_backbone(NAME, SIZE, str(tmp_path / "cut.keras"))


@pytest.mark.parametrize("suffix", ["weights.h5", "h5"])
def test_a_weights_file_of_another_architecture_is_rejected(tmp_path: Path, suffix: str) -> None:
    other, path = stock("MobileNet"), tmp_path / f"other.{suffix}"
    other.save(path) if suffix == "h5" else other.save_weights(path)
    with pytest.raises(RunError, match=r"model\.weights: .*other\..*h5: does not fit the backbone: .*layer"):
        load_backbone(NAME, SIZE, str(path))


def test_a_weights_file_with_a_wrong_shape_is_rejected_with_the_layer(tmp_path: Path) -> None:
    path = tmp_path / "small.weights.h5"
    build_backbone("compact_small", SIZE).save_weights(path)
    with h5py.File(path, "r+") as file:
        name = next(group for group in file["layers"] if group == "conv2d_1")
        del file[f"layers/{name}/vars/0"]
        file[f"layers/{name}/vars/0"] = np.zeros((3, 3, 24, 47), "float32")
    with pytest.raises(RunError, match=r"small\.weights\.h5: does not fit .*down_convolution"):
        load_backbone("compact_small", SIZE, str(path))


@pytest.mark.parametrize("member", ["layers/conv2d_1/vars/0", "layers/conv2d_1", "layers/batch_normalization/vars/3"])
def test_a_weights_file_that_lacks_a_tensor_is_rejected_with_the_layer(tmp_path: Path, member: str) -> None:
    path = tmp_path / "small.weights.h5"
    build_backbone("compact_small", SIZE).save_weights(path)
    with h5py.File(path, "r+") as file:
        del file[member]
    layer = "down_convolution" if "conv2d" in member else "patch_norm"
    with pytest.raises(RunError, match=rf"small\.weights\.h5: .*{layer}"):
        load_backbone("compact_small", SIZE, str(path))


@pytest.mark.reliability(31)
def test_a_silently_skipped_tensor_is_an_error(h5_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_all_but_one(model: Any, path: Any) -> None:
        for weight in model.weights:
            if weight is not model.get_layer("block_3_expand_BN").weights[2]:
                weight.assign(np.ones(weight.shape))

    monkeypatch.setattr(keras.Model, "load_weights", load_all_but_one)
    with pytest.raises(RunError, match=r"no values for 'moving_mean' of the layer 'block_3_expand_BN'"):
        load_backbone(NAME, SIZE, str(h5_file))


@pytest.mark.parametrize("suffix", ["keras", "weights.h5", "h5"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_a_damaged_file_is_a_one_line_run_error(
    tmp_path: Path, keras_file: Path, h5_file: Path, suffix: str, damage: str
) -> None:
    whole = (keras_file if suffix == "keras" else h5_file).read_bytes()
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"no weights\n" * 99}[damage])
    with pytest.raises(
        RunError, match=rf"^model\.weights: .*damaged\.{suffix}: (cannot be loaded|refused|damaged): [^\n]+$"
    ):
        load_backbone(NAME, SIZE, str(path))


# --- imagenet, without a network ---


def test_imagenet_weights_are_loaded_from_the_keras_cache(caches_of_this_test: Path) -> None:
    path = caches_of_this_test / "keras/models" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    source = write_release(NAME, path)
    with warnings.catch_warnings(action="error"):
        start = load_start(ModelConfig(backbone=NAME, weights="imagenet"), SIZE)
    assert start.tensors == len(source.weights)
    assert start.backbone.name == "backbone"
    assert same_weights(start.backbone, source)


@pytest.mark.slow
def test_an_efficientnet_from_our_loader_computes_the_same_as_from_keras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "efficientnetb0_notop.h5"
    source = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(*SIZE, 3))
    source.save(path)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *a, **k: str(path))
    of_keras = keras.applications.EfficientNetB0(include_top=False, input_shape=(*SIZE, 3))
    start = load_start(ModelConfig(backbone="EfficientNetB0", weights="imagenet", weights_dir=tmp_path), SIZE)
    assert start.tensors == len(source.weights)
    pixels = np.random.default_rng(0).uniform(0, 255, (1, *SIZE, 3)).astype("float32")
    maps = [model.predict_on_batch(pixels) for model in (start.backbone, of_keras, source)]
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-5, atol=1e-6)
    assert not np.allclose(maps[0], maps[2], rtol=1e-5, atol=1e-6)  # without ImageNet weights, Keras scales differently


SLOW_BACKBONES = [pytest.param(name, marks=pytest.mark.slow) for name in ("DenseNet121", "NASNetMobile")]


@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV3Small", "ConvNeXtTiny", *SLOW_BACKBONES])
def test_a_keras_release_has_the_same_weights_from_our_loader_as_from_keras(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / RELEASES[name].file_name
    write_release(name, path)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *a, **k: str(path))
    with warnings.catch_warnings(action="ignore"):  # that several sizes share these weights
        of_keras = getattr(keras.applications, name)(include_top=False, input_shape=(*SIZE, 3))
    start = load_start(ModelConfig(backbone=name, weights="imagenet", weights_dir=tmp_path), SIZE)
    assert start.tensors == len(of_keras.weights)
    assert same_weights(start.backbone, of_keras)


def test_missing_imagenet_weights_are_a_machine_error_with_a_workaround() -> None:
    with pytest.raises(
        MachineError, match=r"ImageNet weights of MobileNetV2 are not on this machine: .*--weights none"
    ):
        load_start(ModelConfig(backbone=NAME, weights="imagenet"), SIZE)


@pytest.mark.skipif(REAL is None, reason="WISESR_TEST_WEIGHTS names no folder with the weights of MobileNet")
def test_the_real_weights_of_mobilenet_are_loaded() -> None:
    config = ModelConfig(backbone="MobileNet", weights="imagenet", weights_dir=Path(REAL or ""))
    start = load_start(config, (96, 96))
    assert (start.tensors, start.preprocessing) == (135, "tf")
    kernel = start.backbone.get_layer("conv1").get_weights()[0]
    assert 0.1 < float(kernel.std()) < 1.0  # trained; Glorot initialization gives 0.08


def test_a_cut_backbone_loads_the_weights_of_a_run_cut_at_the_same_layer(tmp_path: Path) -> None:
    layer = "stage1_relu"
    first = ModelConfig(backbone="compact", feature_layer=layer)
    origin = build_classifier(first, image_size=(32, 32), classes=3)
    randomize(origin.model)
    origin.model.save(tmp_path / "best.keras")
    again = ModelConfig(backbone="compact", feature_layer=layer, weights=str(tmp_path / "best.keras"))
    loaded = build_classifier(again, image_size=(32, 32), classes=3)
    assert loaded.loaded_tensors == len(origin.backbone.weights)
    assert same_weights(loaded.backbone, origin.backbone)


# --- backbones built from the file itself, and loaded heads ---


def save_run(folder: Path, *, epoch: int = 0, names: tuple[str, ...] = ("a", "b", "c"), **options: Any) -> Path:
    """Save a classifier with random weights as the best model of a run, and return its folder."""
    config = ModelConfig(backbone="compact_small", **options)
    model = randomize(build_classifier(config, image_size=SIZE, classes=len(names)).model)
    model.save(folder / BEST)
    info = ModelInfo(names, SIZE, Preparation(), BACKGROUND, "from_weights", config.head.name, epoch, {})
    append_model_info(folder / BEST, info)
    return folder


def from_run(run: Path, **options: Any) -> ModelConfig:
    return ModelConfig(backbone="from_weights", weights=str(run), **options)


def head_of(model: Any) -> list[Any]:
    return [weight for layer in model.layers[2:] for weight in layer.get_weights()]


@pytest.mark.parametrize(("scaling", "size"), [("auto", SIZE), ("caffe", SIZE), ("tf", (48, 40))])
def test_a_backbone_from_weights_computes_the_same_as_that_of_the_run(tmp_path: Path, scaling: Any, size: Any) -> None:
    run = save_run(tmp_path, preprocessing=scaling)
    classifier = build_classifier(from_run(run), image_size=size, classes=5)
    saved = load_model(check_model(run / BEST))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, *SIZE, 3)).astype("float32")
    if size == SIZE:
        both = [keras.Model(model.input, model.get_layer("wise").input) for model in (saved, classifier.model)]
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(model(pixels, training=False)) for model in both))
    assert same_weights(classifier.backbone, saved.get_layer("backbone"))
    assert classifier.loaded_tensors == 15
    assert classifier.feature_map == (size[0] // 8, size[1] // 8, 64)


def test_auto_loads_the_head_of_an_upgraded_run_only_and_can_be_overridden(tmp_path: Path) -> None:
    for folder, epoch in (("upgraded", 0), ("trained", 7)):
        (tmp_path / folder).mkdir()
        save_run(tmp_path / folder, epoch=epoch)
    for folder, wanted, expected in (
        ("upgraded", "auto", True),
        ("upgraded", False, False),
        ("trained", "auto", False),
        ("trained", True, True),
    ):
        config = from_run(tmp_path / folder, load_head=wanted)
        classifier = build_classifier(config, image_size=SIZE, classes=3)
        saved = head_of(load_model(check_model(tmp_path / folder / BEST)))
        assert all(np.array_equal(*pair) for pair in zip(head_of(classifier.model), saved, strict=True)) == expected
        assert (classifier.head_start is not None) == expected


def test_a_head_of_a_named_backbone_is_loaded_too(tmp_path: Path) -> None:
    config = ModelConfig(backbone="compact_small", weights=str(save_run(tmp_path, epoch=3)), load_head=True)
    classifier = build_classifier(config, image_size=SIZE, classes=3)
    assert same_weights(classifier.model, load_model(check_model(tmp_path / BEST)))


def test_classes_of_a_loaded_head_are_matched_by_name(tmp_path: Path) -> None:
    run = save_run(tmp_path)
    classifier = build_classifier(from_run(run), image_size=SIZE, classes=3, class_names=("c", "a", "b"))
    kernel, bias = load_model(check_model(run / BEST)).get_layer("classifier").get_weights()
    ours = classifier.model.get_layer("classifier").get_weights()
    np.testing.assert_array_equal(ours[0], kernel[:, [2, 0, 1]])
    np.testing.assert_array_equal(ours[1], bias[[2, 0, 1]])


@pytest.mark.parametrize(
    ("options", "names", "size", "reason"),
    [
        ({}, ("a", "b", "x"), SIZE, "the file has the classes a, b, c, and the images a, b, x"),
        ({"head": GapOptions()}, ("a", "b", "c"), SIZE, "the file has a different head, 'wise'"),
        (
            {"head": WiseOptions(constraint="none")},
            None,
            SIZE,
            "constraint of its 'wise' is unit_sum, and here none",
        ),
        ({"head": WiseOptions(pre_pool=2)}, None, SIZE, r"grid_size of its 'wise' is \(4, 4\), and here \(2, 2\)"),
    ],
)
def test_a_mismatched_head_is_reinitialized_with_the_reason_or_an_error_if_requested(
    tmp_path: Path, options: dict[str, Any], names: Any, size: tuple[int, int], reason: str
) -> None:
    run = save_run(tmp_path)
    classifier = build_classifier(from_run(run, **options), image_size=size, classes=3, class_names=names)
    assert re.search(reason, str(classifier.head_start))
    with pytest.raises(RunError, match=f"model.load_head is true, but the head of .* does not fit: {reason}"):
        build_classifier(from_run(run, **options, load_head=True), image_size=size, classes=3, class_names=names)


def test_a_backbone_from_weights_adopts_the_training_precision_and_is_trainable(tmp_path: Path) -> None:
    run = save_run(tmp_path)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        classifier = build_classifier(from_run(run), image_size=SIZE, classes=3)
    finally:
        keras.config.set_dtype_policy("float32")
    convolutions = [layer for layer in classifier.backbone.layers if layer.name.endswith("_convolution")]
    assert {layer.dtype_policy.name for layer in convolutions} == {"mixed_bfloat16"}
    assert all(layer.trainable for layer in convolutions)


def test_a_source_without_a_backbone_is_rejected_with_a_suggestion(keras_file: Path, h5_file: Path) -> None:
    for weights in (None, "imagenet", str(h5_file)):
        with pytest.raises(
            ConfigError, match=r"model.weights is .*, which holds no backbone; give a run, or a \.keras"
        ):
            build_classifier(ModelConfig(backbone="from_weights", weights=weights), image_size=SIZE, classes=3)
    with pytest.raises(
        RunError, match=r"is not a model of wisesr, .*; make a run of it: wisesr upgrade .*stock\.keras"
    ):
        build_classifier(from_run(keras_file), image_size=SIZE, classes=3)
    config = ModelConfig(backbone=NAME, weights=str(keras_file), load_head=True)
    with pytest.raises(RunError, match=r"model.load_head is true, but model.weights is not a run"):
        build_classifier(config, image_size=SIZE, classes=3)
