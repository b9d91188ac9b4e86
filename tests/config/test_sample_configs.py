from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from wisesr_cli.config.reader import load_config
from wisesr_cli.config.schedules import learning_rates

FOLDER = Path(__file__).parents[2] / "sample_configs"
FILES = sorted(FOLDER.rglob("*.yaml"))
NAMES = [path.relative_to(FOLDER).as_posix() for path in FILES]
CLASSES = {"imagenet70": 70, "intel": 6, "mit": 67}

# What the paper's notebooks train: head, pooling before it, dropout, whether weights are non-negative.
GAP, GAP_DROPOUT = ("gap", 1, 0.0, False), ("gap", 1, 0.5, False)
DEPTHWISE, DEPTHWISE_NONNEG = ("depthwise", 1, 0.0, False), ("depthwise", 1, 0.0, True)
WISE, WISE_DROPOUT = ("wise", 2, 0.0, True), ("wise", 2, 0.5, True)
NOTEBOOKS = {
    "imagenet70_resnet50": {
        **{"gap": GAP, "gap_dropout": GAP_DROPOUT, "depthwise": DEPTHWISE, "depthwise_nonneg": DEPTHWISE_NONNEG},
        **{"wise": WISE, "wise_dropout": WISE_DROPOUT},
    },
    "intel_densenet169": {"gap": GAP, "depthwise_nonneg": DEPTHWISE_NONNEG, "wise": WISE},
    "mit_xception_224": {
        **{"gap": GAP, "gap_dropout": GAP_DROPOUT, "depthwise_nonneg": DEPTHWISE_NONNEG},
        **{"wise": WISE, "wise_dropout": WISE_DROPOUT},
    },
    "mit_xception_512": {"gap": GAP, "pool_flatten": ("flatten", 3, 0.0, False), "wise": ("wise", 3, 0.0, True)},
}
# Backbone, weights, image size, batch size, epochs, and the shape of the architecture's feature map.
SETTINGS = {
    "imagenet70_resnet50": ("ResNet50", None, 224, 70, 148, (7, 7, 2048)),
    "intel_densenet169": ("DenseNet169", None, 224, 70, 220, (7, 7, 1664)),
    "mit_xception_224": ("Xception", None, 224, 70, 200, (7, 7, 2048)),
    "mit_xception_512": ("Xception", "imagenet", 512, 15, 130, (16, 16, 2048)),
}
ALL_NOTEBOOKS = [(key, head) for key, heads in NOTEBOOKS.items() for head in heads]


@cache
def backbone_without_values(name: str, image_size: tuple[int, int]) -> Any:
    from wisesr_cli.models.build import feature_map_of
    from wisesr_cli.models.settings import ModelConfig

    return feature_map_of(ModelConfig(backbone=name), image_size)[1]


def build(path: Path, classes: int) -> tuple[tuple[int, ...], int]:
    """Return the shape of the feature map and the number of head parameters of a config's model."""
    import keras

    from wisesr_cli.model_files.loading import build_without_values
    from wisesr_cli.models.backbones import preprocess, resolve_preprocessing
    from wisesr_cli.models.heads import build_head

    config = load_config(path).config
    size, model = config.data.image_size, config.model
    backbone = backbone_without_values(model.backbone, size)

    def build_classifier() -> keras.Model:
        pixels = keras.Input((*size, 3))
        feature_map = backbone(preprocess(pixels, resolve_preprocessing(model.backbone, model.preprocessing)))
        return keras.Model(pixels, build_head(feature_map, classes, model.head))

    classifier = build_without_values(build_classifier)
    assert classifier.output_shape == (None, classes)
    return tuple(backbone.output_shape[1:]), classifier.count_params() - backbone.count_params()


def formula(name: str, pool: int, feature_map: tuple[int, int, int], classes: int) -> int:
    """Return the number of head parameters as the paper counts them; `valid` pooling drops the remainder."""
    height, width, channels = feature_map
    grid = (height // pool) * (width // pool)
    if name == "flatten":
        return (grid * channels + 1) * classes
    return {"gap": 0, "depthwise": (height * width + 1) * channels, "wise": (grid + 1) * channels}[name] + (
        channels + 1
    ) * classes


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_sample_config_loads_builds_and_documents_its_command(path: Path) -> None:
    header = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        header.append(line)
    command = f"wisesr train sample_configs/{path.relative_to(FOLDER).as_posix()}"
    assert any(line.removeprefix("#").strip().startswith(command) for line in header)
    assert any(line.startswith("# Expect: ") for line in header)
    loaded = load_config(path)
    assert loaded.notes == ()
    assert loaded.config.name is None
    feature_map, parameters = build(path, classes=5)
    assert min(feature_map) > 1
    assert parameters > 0


@pytest.mark.parametrize(("key", "head"), ALL_NOTEBOOKS, ids=[f"{key}_{head}" for key, head in ALL_NOTEBOOKS])
def test_notebook_config_has_the_settings_and_head_parameters_of_the_paper(key: str, head: str) -> None:
    path = FOLDER / "paper" / f"{key}_{head}.yaml"
    name, pool, dropout, non_negative = NOTEBOOKS[key][head]
    backbone, weights, size, batch_size, epochs, feature_map = SETTINGS[key]
    config = load_config(path).config
    model, options = config.model, config.model.head.model_dump()
    assert (model.backbone, model.weights, model.preprocessing) == (backbone, weights, "caffe")
    assert (options["name"], options["dropout"], options["classifier_initializer"]) == (name, dropout, "paper")
    if name in {"depthwise", "wise"}:
        assert options["initializer"] == "paper"
        assert options["constraint"] == ("non_negative" if non_negative else "none")
    if name in {"wise", "flatten"}:
        assert (options["pre_pool"], options["pooling"]) == (pool, "valid")
    assert config.data.image_size == (size, size)
    assert config.data.resize == "squash"
    assert config.augment == "paper"
    train = config.train
    assert (train.batch_size, train.epochs, train.best_by) == (batch_size, epochs, "top1_accuracy")
    assert (train.phases, train.class_weights, train.label_smoothing, train.early_stopping) == (None, "none", 0, None)
    assert train.optimizer.model_dump() == {"name": "sgd", "learning_rate": 0.045, "momentum": 0.9, "weight_decay": 0.0}
    assert config.data.train_dir is not None
    assert config.data.validation_dir is not None
    assert config.data.train_dir.name == "train"
    assert config.data.validation_dir.name == "test"
    classes = CLASSES[key.split("_")[0]]
    expected = formula(name, pool, feature_map, classes)
    assert build(path, classes) == (feature_map, expected)
    assert f"{expected:,} parameters" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("key", SETTINGS)
def test_notebook_learning_rate_is_multiplied_by_0_94_every_second_epoch(key: str) -> None:
    train = load_config(FOLDER / "paper" / f"base_{key}.yaml").config.train
    rates = learning_rates(
        train.optimizer.learning_rate, train.schedule, total_epochs=train.epochs, steps_per_epoch=3
    ).reshape(-1, 3)
    expected = 0.045
    for epoch, in_epoch in enumerate(rates):
        if epoch and epoch % 2 == 0:
            expected *= 0.94
        assert in_epoch.tolist() == pytest.approx([expected] * 3)


def test_paper_folder_holds_exactly_17_notebooks_and_their_4_bases() -> None:
    expected = {f"paper/{key}_{head}.yaml" for key, head in ALL_NOTEBOOKS} | {
        f"paper/base_{key}.yaml" for key in SETTINGS
    }
    assert len(ALL_NOTEBOOKS) == 17
    assert {name for name in NAMES if name.startswith("paper/")} == expected
