"""Classifiers built as in the public guides are upgraded by the command line: one output, images of any size."""

from __future__ import annotations

from pathlib import Path

import keras
import keras2_files
import pytest
from command_line import CommandLine
from keras_classifiers import ENDS, SIDE, ending, in_a_row, plain, save

from wisesr_cli.upgrading import convert


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "keep_litert", lambda *arguments, **options: None)  # takes most of the time


def test_a_single_unit_becomes_two_classes_and_seventy_classes_are_kept(wisesr: CommandLine) -> None:
    unit = in_a_row(keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1, activation="sigmoid"))
    answer = wisesr("upgrade", save(ending(unit), Path("unit.keras")), "--format", "json")
    assert answer.data["class_names"] == ["class_0", "class_1"]
    assert "the one unit becomes two classes" in answer.err
    answer = wisesr("upgrade", save(plain(70), Path("many.keras"))).worked()
    assert "and 58 more" in answer.out


def test_a_single_logit_becomes_two_classes_only_if_compiled_with_from_logits(wisesr: CommandLine) -> None:
    for from_logits in (False, True):
        model = ending(in_a_row(keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)))
        model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=from_logits))
        path = Path(f"logit-{from_logits}.keras")
        model.save(path)
        answer = wisesr("upgrade", path, "--format", "json")
        if not from_logits:
            answer.failed(4, "its one output has no sigmoid, and was not compiled with BinaryCrossentropy(from_logits=")
            assert "wisesr train FOLDER --backbone NAME --weights logit-False.keras" in answer.error
    assert answer.worked().data["max_probability_difference"] < 1e-5
    assert answer.data["class_names"] == ["class_0", "class_1"]


def test_a_model_that_resizes_images_itself_is_upgraded_at_that_size(wisesr: CommandLine) -> None:
    path = save(ENDS["resizing and augmentation in front"](), Path("resizing.keras"))
    answer = wisesr("upgrade", path, "--format", "json").worked()
    assert answer.data["image_size"] == [*SIDE]
    assert "resizing is skipped, as wisesr resizes images itself, with antialiasing: resizing" in answer.err
    assert "augmentation is skipped, as saved models do not include it: " in answer.err
    pixels = keras.Input((64, 64, 3))
    fixed = keras.Model(pixels, ending(keras.layers.GlobalAveragePooling2D())(keras.layers.Resizing(*SIDE)(pixels)))
    logits = keras.layers.Dense(3)(fixed.output)
    wisesr("upgrade", save(keras.Model(pixels, logits), Path("fixed.keras"))).failed(4, "resizes them to 32x24 itself")


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_a_keras_2_model_is_upgraded_according_to_its_compiled_loss(wisesr: CommandLine, suffix: str) -> None:
    model, path = keras2_files.reference(), Path(f"old.{suffix}")
    if suffix == "h5":
        keras2_files.write_h5(path, keras2_files.classifier(), keras2_files.tensors_of(model), keras2_files.COMPILED)
    else:
        keras2_files.write_keras(path, keras2_files.classifier(), keras2_files.places_of(model))
    answer = wisesr("upgrade", path, "--format", "json", "--name", suffix).worked()
    assert answer.data["max_probability_difference"] < 1e-5
    assert answer.data["class_names"] == ["class_0", "class_1"]
    assert answer.data["scaling_reason"].startswith("the model scales them itself (tf.math.truediv, tf.math.subtract)")
    assert "regularizers are skipped" in answer.err
    assert "the model froze 1 layer of its backbone" in answer.err


def test_a_keras_2_model_with_custom_code_is_rejected_with_layer_and_workaround(wisesr: CommandLine) -> None:
    code = keras2_files.layer("Lambda", "scale", keras2_files.on("input_1"), function={"class_name": "__lambda__"})
    keras2_files.write_h5(Path("old.h5"), keras2_files.model_of("m", [keras2_files.pixels(), code]), {})
    answer = wisesr("upgrade", "old.h5")
    answer.refused(4, "its layer 'scale' (Lambda)", "wisesr train FOLDER --backbone NAME --weights old.h5")
