"""Explanations of model files agree with the model, regardless of the head, the batch and its other images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import Trained
from run_states import load_engine

from wisesr_cli.config.reader import parse_head
from wisesr_cli.errors import DataError, RunError, WisesrError
from wisesr_cli.explanation import attribution
from wisesr_cli.explanation.explainer import Explainer, explain_paths
from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.layers import PositionWeightedPooling2D
from wisesr_cli.model_files.archive import append_model_info, check_model
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.models import heads
from wisesr_cli.models.backbones import build_backbone
from wisesr_cli.models.build import build_classifier
from wisesr_cli.models.settings import ModelConfig
from wisesr_cli.results.streams import Contribution, Explanation

SIZE = (40, 56)
NAMES = ("[/red]", "b", "c", "d", "e")


def explainer_of(path: Path) -> Explainer:
    return Explainer(check_model(path))


def save(
    path: Path, head: str, *, size: tuple[int, int] = SIZE, names: tuple[str, ...] = NAMES, **options: Any
) -> Path:
    """Write a model file whose head has random weights, as after training."""
    config = ModelConfig(backbone="compact_small", head=parse_head(head), **options)
    classifier = build_classifier(config, image_size=size, classes=len(names))
    draws = np.random.default_rng(0)
    for layer in classifier.model.layers[classifier.model.layers.index(classifier.backbone) + 1 :]:
        layer.set_weights([np.abs(draws.normal(0, 0.1, weight.shape)) for weight in layer.get_weights()])
    classifier.model.save(path)
    name = head.partition(":")[0]
    append_model_info(path, ModelInfo(names, size, Preparation(), BACKGROUND, "compact_small", name, 1, {}))
    return path


def random_pixels(count: int, size: tuple[int, int] = SIZE) -> Any:
    return np.random.default_rng(1).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def check_sum(contribution: Contribution) -> None:
    """Compare map, sum, bias and logit as a reader of the JSON would."""
    read = json.loads(json.dumps(Explanation("x", contribution).to_json()))[0]
    values = [value for row in read["map"] for value in row]
    size = sum(map(abs, values)) + abs(read["bias"])
    assert read["sum"] == pytest.approx(sum(values), abs=1e-12 * size)
    assert abs(sum(values) + read["bias"] - read["logit"]) <= 1e-5 * size


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("gap", {}),
        ("gmp", {"preprocessing": "tf"}),
        ("depthwise:dropout=0.5", {"preprocessing": "torch"}),
        ("wise:pooling=valid:constraint=unit_sum", {"preprocessing": "caffe"}),
        ("flatten:pre_pool=2", {"feature_layer": "patch_relu"}),
        ("fc:dropout=0.5", {}),
    ],
)
def test_any_head_is_explained(
    head: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "FC_UNITS", 8)
    path = save(tmp_path / "best.keras", head, **options)
    explainer, pixels = explainer_of(path), random_pixels(3)
    logits = load_engine(path).logits(pixels)
    decisions = explainer.explain(pixels, [4, 0, 4])
    is_local = head.partition(":")[0] in {"gmp", "fc"}
    assert explainer.is_linear is not is_local
    assert explainer.statement.startswith("exact for this image only, on" if is_local else "exact on")
    for decision, expected in zip(decisions, logits, strict=True):
        np.testing.assert_allclose(decision.logits, expected, atol=1e-5)
        first, second = np.argsort(-expected)[:2]
        assert (decision.predicted.label, decision.runner_up.label) == (NAMES[first], NAMES[second])
        assert [contribution.label for contribution in decision.asked] == ["e", "[/red]", "e"]
        for contribution in (decision.predicted, decision.runner_up, *decision.asked):
            check_sum(contribution)
            assert contribution.logit == decision.logits[NAMES.index(contribution.label)]
            assert np.shape(contribution.map) == explainer.feature_map[:2]
        check_sum(decision.predicted.minus(decision.runner_up))


def test_contributions_of_gap_match_its_formula(tmp_path: Path) -> None:
    explainer, pixels = explainer_of(save(tmp_path / "best.keras", "gap")), random_pixels(2)
    model = load_engine(explainer.path).model
    features = keras.Model(model.input, model.get_layer("gap").input).predict_on_batch(pixels.astype("float32"))
    kernel, bias = model.get_layer("classifier").get_weights()
    for image, decision in enumerate(explainer.explain(pixels, range(5))):
        for label, contribution in enumerate(decision.asked):
            assert contribution.bias == bias[label]
            for row in range(5):
                for column in range(7):
                    expected = sum(features[image, row, column, c] * kernel[c, label] for c in range(64)) / 35
                    assert contribution.map[row][column] == pytest.approx(expected, abs=1e-6)


def test_a_smaller_batch_is_padded_to_the_same_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    explainer, sizes = explainer_of(save(tmp_path / "best.keras", "wise")), []
    predict = keras.Model.predict_on_batch
    monkeypatch.setattr(keras.Model, "predict_on_batch", lambda model, x: sizes.append(len(x)) or predict(model, x))
    assert [len(explainer.explain(random_pixels(count))) for count in (4, 1, 0, 3)] == [4, 1, 0, 3]
    assert sizes == [4, 4, 4]


def test_images_are_read_only_a_little_ahead(trained: Trained) -> None:
    path, taken = str(next((trained.photos / "test").rglob("*.png"))), []

    def endless() -> Any:
        while True:
            taken.append(path)
            yield path

    records = explain_paths(explainer_of(trained.run / "best.keras"), endless(), batch_size=2)
    assert [next(records).error for _ in range(6)] == [None] * 6
    records.close()  # type: ignore[attr-defined]
    assert len(taken) < 300


def test_contributions_that_do_not_add_up_are_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(layer: Any, coefficients: Any) -> Any:
        return right(layer, coefficients * 1.001)

    explainer, right = explainer_of(save(tmp_path / "best.keras", "wise")), PositionWeightedPooling2D.pull_back
    monkeypatch.setattr(PositionWeightedPooling2D, "pull_back", wrong)
    with pytest.raises(
        WisesrError, match=r"best\.keras: the contributions to '.*' add up to .*, but the model's logit"
    ):
        explainer.explain(random_pixels(2))


def test_a_wrong_rule_is_reported_as_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(attribution.RULES, "GlobalMaxPooling2D", attribution.RULES["GlobalAveragePooling2D"])
    explainer = explainer_of(save(tmp_path / "best.keras", "gmp"))
    with pytest.raises(WisesrError, match="please report this") as caught:
        explainer.explain(random_pixels(1))
    assert caught.value.exit_code == 1


def test_non_finite_logits_are_not_explained(tmp_path: Path) -> None:
    explainer = explainer_of(save(tmp_path / "best.keras", "wise"))
    for layer in explainer._engine.model.layers:
        layer.set_weights([np.full(weight.shape, np.nan) for weight in layer.get_weights()])
    with pytest.raises(DataError, match="the model's logits are not finite, so nothing can be explained"):
        explainer.explain(random_pixels(1))


def rebuilt(path: Path, head: Any) -> Path:
    """Write a model file with a custom head."""
    backbone = build_backbone("compact_small", (32, 32))
    pixels = keras.Input((32, 32, 3))
    return written(path, keras.Model(pixels, head(backbone(pixels))))


def written(path: Path, model: Any) -> Path:
    """Write a model of 32x32 pixels and two classes with the model info of a wisesr model."""
    model.save(path)
    append_model_info(path, ModelInfo(("a", "b"), (32, 32), Preparation(), BACKGROUND, "compact_small", "wise", 1, {}))
    return path


def two_ways(features: Any) -> Any:
    mean = keras.layers.GlobalAveragePooling2D()(features)
    return keras.layers.Dense(2)(keras.layers.Add()([mean, keras.layers.GlobalMaxPooling2D()(features)]))


def normalized(features: Any) -> Any:
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    return keras.layers.Dense(2)(keras.layers.GroupNormalization(2, name="odd")(pooled))


def probabilities(features: Any) -> Any:
    return keras.layers.Dense(2, "softmax", name="odd")(keras.layers.Flatten()(features))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (two_ways, "the layers after its backbone are not a plain sequence"),
        (normalized, "the head has a layer GroupNormalization ('odd'), for which no exact explanation is known"),
        (probabilities, "the head has an end that is not a dense layer without activation ('odd')"),
    ],
)
def test_a_head_that_cannot_be_explained_raises_an_error_with_the_reason(
    head: Any, reason: str, tmp_path: Path
) -> None:
    path = rebuilt(tmp_path / "best.keras", head)
    with pytest.raises(RunError) as caught:
        explainer_of(path)
    assert str(caught.value).startswith(f"{path}: cannot be explained: {reason}")


def one_after_the_other() -> Any:
    layers = [keras.layers.Conv2D(4, 3, strides=8), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    return keras.Sequential([keras.Input((32, 32, 3)), *layers])


def two_maps() -> Any:
    inputs, pixels = keras.Input((32, 32, 3)), keras.Input((32, 32, 3))
    features = keras.layers.Conv2D(4, 3)(inputs)
    first, second = keras.Model(inputs, [features, keras.layers.ReLU()(features)], name="backbone")(pixels)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([first, second]))
    return keras.Model(pixels, keras.layers.Dense(2)(pooled))


def vector() -> Any:
    inputs, pixels = keras.Input((32, 32, 3)), keras.Input((32, 32, 3))
    backbone = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs), name="backbone")
    return keras.Model(pixels, keras.layers.Dense(2)(keras.layers.Dropout(0.5)(backbone(pixels))))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (one_after_the_other, "the model has no layer 'backbone'"),
        (two_maps, "its backbone gives (), not a feature map of known size"),
        (vector, "its backbone gives (None, 3), not a feature map of known size"),
    ],
)
def test_an_unsupported_model_raises_an_error_with_the_reason(build: Any, reason: str, tmp_path: Path) -> None:
    path = written(tmp_path / "best.keras", build())
    with pytest.raises(RunError) as caught:
        explainer_of(path)
    assert str(caught.value) == f"{path}: cannot be explained: {reason}"


def test_a_batch_normalization_in_the_head_is_folded_in(tmp_path: Path) -> None:
    def head(features: Any) -> Any:
        layer = keras.layers.BatchNormalization()
        pooled = layer(keras.layers.GlobalAveragePooling2D()(features))
        layer.set_weights([np.random.default_rng(number).uniform(0.5, 2, 64) for number in range(4)])
        return keras.layers.Dense(2)(pooled)

    for decision in explainer_of(rebuilt(tmp_path / "best.keras", head)).explain(random_pixels(2, (32, 32))):
        check_sum(decision.predicted)


def test_a_map_of_one_position_holds_the_whole_logit(tmp_path: Path) -> None:
    explainer = explainer_of(save(tmp_path / "best.keras", "wise", size=(8, 8), names=("a", "b")))
    (decision,) = explainer.explain(random_pixels(1, (8, 8)))
    assert explainer.feature_map[:2] == (1, 1)
    ((value,),) = decision.predicted.map
    assert value + decision.predicted.bias == pytest.approx(decision.predicted.logit, rel=1e-5)
    assert "each position sees the whole image of 8x8 pixels" in explainer.statement


def test_the_statement_includes_what_a_position_sees(tmp_path: Path) -> None:
    explainer = explainer_of(save(tmp_path / "best.keras", "wise"))
    assert explainer.statement == (
        "exact on the feature map of 5x7 positions (sum + bias = logit), not on pixels: each position sees at most "
        "12x12 of the image's 40x56 pixels"
    )
    explainer.receptive_field = None
    assert explainer.statement.endswith("which of the image's 40x56 pixels a position sees is not known")


def test_position_weights_are_those_the_head_computes_with(tmp_path: Path) -> None:
    explainer = explainer_of(save(tmp_path / "best.keras", "wise:pre_pool=2:constraint=non_negative"))
    found = explainer.weights()
    model = load_engine(explainer.path).model
    kernel, classifier = model.get_layer("wise").get_weights()[0], model.get_layer("classifier").get_weights()[0]
    rows, columns = (0, 0, 0, 1, 1), (0, 0, 1, 1, 1, 2, 2)  # tiles of 3, 2 and of 2, 3, 2 positions
    assert found.weights is not None
    for row in range(5):
        for column in range(7):
            tile = rows[row], columns[column]
            cells = rows.count(tile[0]) * columns.count(tile[1])
            np.testing.assert_allclose(found.weights[row, column], kernel[tile] / cells, rtol=1e-6)
    np.testing.assert_allclose(found.average, found.weights.mean(axis=2))
    of_class = found.of_class(3, 4)
    sizes = np.abs(found.weights * classifier[:, 3])
    np.testing.assert_allclose(of_class.average, sizes.mean(axis=2))
    strength = {channel: sizes[:, :, channel].sum() for channel in range(64)}
    assert [row.channel for row in of_class.channels] == sorted(strength, key=strength.__getitem__, reverse=True)[:4]
    for row in of_class.channels:
        assert row.strength == pytest.approx(strength[row.channel])
        assert row.classifier_weight == classifier[row.channel, 3]
        assert np.array_equal(row.weights, found.weights[:, :, row.channel])
    assert (of_class.label, found.uniform) == ("d", 1 / 35)


def test_global_average_pooling_weighs_every_position_equally(tmp_path: Path) -> None:
    found = explainer_of(save(tmp_path / "best.keras", "gap")).weights()
    np.testing.assert_allclose(found.average, np.full((5, 7), 1 / 35))
    assert found.statement == "the head 'gap' has learned no position weights: each of 5x7 counts the same"


def test_a_flatten_head_has_separate_weights_for_every_class(tmp_path: Path) -> None:
    explainer = explainer_of(save(tmp_path / "best.keras", "flatten"))
    found = explainer.weights()
    kernel = load_engine(explainer.path).model.get_layer("classifier").get_weights()[0].reshape(5, 7, 64, 5)
    assert found.weights is None
    np.testing.assert_allclose(found.average, np.abs(kernel).mean(axis=(2, 3)), rtol=1e-6)
    of_class = found.of_class(2, 1)
    np.testing.assert_allclose(of_class.average, np.abs(kernel[..., 2]).mean(axis=2), rtol=1e-6)
    (row,) = of_class.channels
    assert row.channel == np.abs(kernel[..., 2]).sum(axis=(0, 1)).argmax()
    assert row.classifier_weight is None
    np.testing.assert_allclose(row.weights, kernel[:, :, row.channel, 2])
    assert row.weights.base is None  # a view would keep the weights of all channels, for every class


@pytest.mark.parametrize(
    ("hidden", "formula"),
    [
        ("8", "(sum + bias = logit; the pooled features are such sums for every image)"),
        (
            "[{units: 8, activation: gelu}]",
            "(sum + bias = logit, with each hidden unit's gain for this image: not how the logit would change; the "
            "pooled features are such sums for every image)",
        ),
    ],
)
def test_hidden_layers_narrow_the_statement_and_keep_the_position_weights(
    hidden: str, formula: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "best.keras", f"wise:pre_pool=1:constraint=non_negative:hidden={hidden}")
    explainer, pixels = explainer_of(path), random_pixels(3)
    assert explainer.statement.startswith(
        f"exact for this image only, on the feature map of 5x7 positions {formula}, not on pixels: "
    )
    logits = load_engine(path).logits(pixels)
    for decision, expected in zip(explainer.explain(pixels, range(5)), logits, strict=True):
        for label, contribution in enumerate(decision.asked):
            check_sum(contribution)
            assert contribution.logit == pytest.approx(expected[label], abs=1e-5)
    found = explainer.weights()
    kernel = load_engine(path).model.get_layer("wise").get_weights()[0]
    np.testing.assert_allclose(found.weights, kernel, rtol=1e-6)
    assert found.logit_sum is None
    assert found.statement.endswith("; as the head has hidden layers, how a class weighs them depends on the image")
    with pytest.raises(RunError, match="the head 'flatten' has no position weights"):
        explainer_of(save(tmp_path / "flatten.keras", "flatten:hidden=8")).weights()


def test_heads_with_image_dependent_weights_have_none_to_show(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="the head 'gmp' has no position weights: which position counts depends on the"):
        explainer_of(save(tmp_path / "best.keras", "gmp")).weights()
