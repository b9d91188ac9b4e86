"""What does `wisesr upgrade` do with Keras classifiers built as in public guides?

    python -m benchmarks.upgrade.recipes [--quick]               # prints the tables
    python -m benchmarks.upgrade.recipes --write [--only WORD]   # and writes them, or some rows, into docs/upgrading.md
    python -m benchmarks.upgrade.recipes --write-only            # only rewrites the page from docs/upgrading.json

Every classifier is built with random weights, saved as its user would save it, and upgraded through the Python
function. Then images that the upgrade has not seen are labelled by the classifier, called as in its guide, and by
`wisesr predict`: the difference is the largest one in a probability, the variation the largest one of a probability
between images. Rows are stored as they come, so that `--write` can be interrupted and the rest requested with `--only`.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import chdir
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from PIL import Image

import wisesr_cli
from benchmarks.pages import DOCS, keep_figures, machine, read_figures, write_between_marks
from benchmarks.upgrade import classifiers as made
from benchmarks.upgrade.classifiers import CLASSES, application, classifier, convolutions, pooled_softmax, small_base
from wisesr_cli.display.grid import Grid, numbers, texts, to_markdown
from wisesr_cli.errors import WisesrError
from wisesr_cli.evaluation.probabilities import softmax
from wisesr_cli.exporting.agreement import difference, variation

DOCUMENT = DOCS / "upgrading.md"
FIGURES = DOCUMENT.with_suffix(".json")
COMPARED = 16  # images
MACHINE = "machine"  # key in the file of figures, in addition to the recipes


@dataclass(frozen=True)
class Recipe:
    """A classifier of a guide.

    Args:
        build: returns the Keras model.
        gives: the kind of its outputs.
        scale: what its user does to pixels 0..255 before the model.
        suffix: the suffix of the file that it is saved as.
        settings: the settings for `wisesr upgrade`.
        precision: Keras' dtype policy while it is built; the comparison is with the same weights in float32.
        several: whether an image may have several labels, so that outputs are independent probabilities.
        is_quick: whether `--quick` includes it.
    """

    build: Callable[[], Any]
    gives: made.Gives = "probabilities"
    scale: made.Scale = made.unscaled
    suffix: str = ".keras"
    settings: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    several: bool = False
    is_quick: bool = False


@dataclass(frozen=True)
class Outcome:
    """The outcome of a recipe: `refused` says why there is no run; all other fields are for runs.

    `difference` and `variation` are those of probabilities, over `COMPARED` images.
    """

    recipe: str
    refused: str = ""
    scaling: str = ""
    tail: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    difference: float = 0.0
    variation: float = 0.0


def outcome_of(name: str, recipe: Recipe, folder: Path) -> Outcome:
    """Build, save, upgrade and compare a classifier, in an empty folder."""
    model, expected = _built(recipe)
    file = Path(f"classifier{recipe.suffix}")
    with chdir(folder):  # so that messages show only the file's name
        model.save(file)
        labels = [f"class {number}" for number in range(max(2, expected.shape[1]))]
        Path("labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        try:
            upgrade = wisesr_cli.upgrade(file, {"name": "run", **recipe.settings}, classes="labels.txt")
        except WisesrError as error:
            return Outcome(name, refused=_reason(str(error), file))
        found = _predicted(Path(upgrade.run_dir), labels, size=upgrade.image_size[0])
    return Outcome(
        name,
        scaling=f"{upgrade.scaling}: {upgrade.scaling_reason}",
        tail=tuple(upgrade.tail),
        notes=upgrade.notes,
        difference=difference(expected, found),
        variation=variation(expected),
    )


def _built(recipe: Recipe) -> tuple[Any, Any]:
    """Return a model, and its probabilities (images, classes) when called as in its guide."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(recipe.precision)
    try:
        model = recipe.build()
    finally:
        keras.config.set_dtype_policy("float32")
    if len(model.inputs) > 1:
        return model, np.zeros((COMPARED, CLASSES))
    settled_on, compared = (recipe.scale(_pixels(first)) for first in (0, 1000))
    made.with_telling_outputs(made.settle(model, settled_on), settled_on)
    exact = model
    if recipe.precision != "float32":
        exact = recipe.build()
        exact.set_weights(model.get_weights())
    outputs = np.asarray(exact(compared, training=False), np.float64)
    if recipe.several:
        return model, outputs
    logits = made.logits_of(outputs, recipe.gives)
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    return model, softmax(logits)


def _pixels(first: int) -> made.Images:
    return made.images(COMPARED, first=first).astype(np.float32)


def _predicted(run: Path, labels: list[str], *, size: int) -> Any:
    """Return the probabilities (images, classes) that `wisesr predict` gives for the images, from files."""
    files = []
    for number, pixels in enumerate(made.images(COMPARED, size)):
        files.append(Path(f"{number:03}.png"))
        Image.fromarray(pixels).save(files[-1])
    rows = [
        {top.label: top.score for top in record.top}
        for record in wisesr_cli.predict(run, files, engine="keras", top_k=len(labels))
    ]
    return np.array([[row[label] for label in labels] for row in rows])


def _reason(message: str, file: Path) -> str:
    """Return why a file was refused, without its name and the advice after every reason."""
    words = message.removeprefix(f"{file}: ").removeprefix("cannot be converted: ")
    return words.partition(". Its backbone can be trained with a new head")[0]


def accepted_table(outcomes: list[Outcome]) -> Grid:
    """Return a row per classifier that became a run."""
    titles = texts("classifier", "pixels", "after the pooling", "notes")
    rows = [
        (
            outcome.recipe,
            outcome.scaling.partition(";")[0],
            ", ".join(outcome.tail),
            "; ".join(re.split(": |; to ", note)[0] for note in outcome.notes),  # without names and advice
            f"{outcome.difference:.0e}",
            f"{outcome.variation:.2f}",
        )
        for outcome in outcomes
        if not outcome.refused
    ]
    return Grid("", (*titles, *numbers("difference", "variation")), tuple(rows))


def refused_table(outcomes: list[Outcome]) -> Grid:
    """Return a row per classifier that was refused."""
    rows = [(outcome.recipe, outcome.refused) for outcome in outcomes if outcome.refused]
    return Grid("", texts("classifier", "reason"), tuple(rows))


def tables(outcomes: list[Outcome]) -> str:
    """Return both tables, in Markdown, and how many rows each has."""
    refused = sum(bool(outcome.refused) for outcome in outcomes)
    return (
        f"{len(outcomes)} classifiers: {len(outcomes) - refused} upgraded, {refused} refused.\n\n"
        f"{to_markdown(accepted_table(outcomes))}\n{to_markdown(refused_table(outcomes))}"
    )


def read_kept() -> tuple[list[Outcome], str]:
    """Return the stored outcomes, and where they were measured."""
    kept = read_figures(FIGURES)
    where = kept.pop(MACHINE)
    lists = ("tail", "notes")
    rows = ({key: tuple(value) if key in lists else value for key, value in row.items()} for row in kept.values())
    return [Outcome(**row) for row in rows], f"Measured on {where}."


def write_document() -> None:
    """Replace the text between the marks of the document."""
    outcomes, where = read_kept()
    write_between_marks(DOCUMENT, "benchmarks.upgrade.recipes", {"recipes": f"{tables(outcomes)}\n{where}\n"})


def main() -> None:
    """Upgrade all classifiers, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only small classifiers, to show that it runs")
    parser.add_argument("--only", metavar="WORD", default="", help="only those with WORD in their name")
    parser.add_argument("--write", action="store_true", help="store the outcomes, and write docs/upgrading.md")
    parser.add_argument("--write-only", action="store_true", help="only rewrite docs/upgrading.md")
    arguments = parser.parse_args()
    if arguments.write_only:
        return write_document()
    outcomes = []
    for name, recipe in RECIPES.items():
        if arguments.only not in name or (arguments.quick and not recipe.is_quick):
            continue
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="wisesr-benchmark-") as folder:
            outcome = outcome_of(name, recipe, Path(folder))
        outcomes.append(outcome)
        said = outcome.refused or f"differs by {outcome.difference:.0e}"
        print(f"{name}: {said} ({time.perf_counter() - started:.0f} s)", file=sys.stderr, flush=True)
        if arguments.write:
            keep_figures(FIGURES, name, asdict(outcome), order=(MACHINE, *RECIPES))
    print(tables(outcomes), end="")
    if arguments.write:
        keep_figures(FIGURES, MACHINE, machine(), order=(MACHINE, *RECIPES))
        write_document()


def _with_top(name: str, **options: Any) -> Recipe:
    """Return the recipe of an unchanged network of `keras.applications`, with its 1,000 classes."""
    return Recipe(lambda: application(name, include_top=True, **options), scale=made.preprocess(name))


RECIPES: dict[str, Recipe] = {
    **{f"keras.applications.{name}": _with_top(name) for name in sorted(made.APPLICATIONS)},
    "keras.applications.MobileNetV2 as .h5": Recipe(
        lambda: application("MobileNetV2", include_top=True), scale=made.preprocess("MobileNetV2"), suffix=".h5"
    ),
    "guide to transfer learning: Xception, one logit": Recipe(
        lambda: made.compiled_for_one_logit(made.transfer("Xception", layers.Dense(1))), "logits"
    ),
    "guide to transfer learning, as .h5": Recipe(
        lambda: made.compiled_for_one_logit(made.transfer("MobileNetV2", layers.Dense(1))), "logits", suffix=".h5"
    ),
    "guide to transfer learning, softmax": Recipe(
        lambda: made.transfer("MobileNetV2", layers.Dense(CLASSES, activation="softmax"))
    ),
    "guide to transfer learning, one unit with sigmoid": Recipe(
        lambda: made.transfer("MobileNetV2", layers.Dense(1, activation="sigmoid"))
    ),
    "mobilenet_v2.preprocess_input in front": Recipe(lambda: made.preprocessed("MobileNetV2", "mobilenet_v2")),
    "resnet50.preprocess_input in front": Recipe(lambda: made.preprocessed("ResNet50", "resnet50")),
    "guide to fine-tuning: trained from layer 100 on": Recipe(made.fine_tuned),
    "base in a Sequential": Recipe(
        lambda: keras.Sequential(
            [
                keras.Input((made.SIDE, made.SIDE, 3)),
                layers.Rescaling(1 / 127.5, offset=-1),
                small_base(),
                layers.GlobalAveragePooling2D(),
                layers.Dense(CLASSES, activation="softmax"),
            ]
        )
    ),
    "base with pooling='avg'": Recipe(
        lambda: made.on_the_output_of(small_base(pooling="avg"), layers.Dense(CLASSES, activation="softmax")),
        scale=made.preprocess("MobileNet"),
    ),
    "page of keras.applications: Dense 1024 relu on base.output": Recipe(
        lambda: made.on_the_output_of(
            small_base(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1024, activation="relu"),
            layers.Dense(200, activation="softmax"),
        ),
        scale=made.preprocess("MobileNet"),
    ),
    "hidden Dense 256 relu and dropout": Recipe(
        lambda: classifier(
            convolutions(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(256, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(CLASSES, activation="softmax"),
        ),
        is_quick=True,
    ),
    "guide to EfficientNet: batch norm after the pooling": Recipe(
        lambda: made.on_the_output_of(
            application("EfficientNetB0"),
            layers.GlobalAveragePooling2D(),
            layers.BatchNormalization(),
            layers.Dropout(0.2),
            layers.Dense(CLASSES, activation="softmax"),
        )
    ),
    "Resizing in front": Recipe(
        lambda: classifier(layers.Resizing(made.SIDE, made.SIDE), convolutions(), pooled_softmax(), side=None)
    ),
    "Normalization, adapted": Recipe(made.normalized),
    "pixels divided by 255 in the data set": Recipe(
        lambda: classifier(small_base(), pooled_softmax()),
        scale=lambda pixels: pixels / 255,
        settings={"model.preprocessing": "unit"},
    ),
    "Lambda in front": Recipe(
        lambda: classifier(layers.Lambda(lambda pixels: pixels / 255), small_base(), pooled_softmax())
    ),
    "pooling by keras.ops.mean": Recipe(
        lambda: classifier(convolutions(), lambda x: ops.mean(x, axis=(1, 2)), layers.Dense(CLASSES)), "logits"
    ),
    "pooling by AveragePooling2D over the map": Recipe(
        lambda: classifier(convolutions(), layers.AveragePooling2D(12), layers.Flatten(), layers.Dense(CLASSES)),
        "logits",
    ),
    "keras.ops.relu in the backbone": Recipe(
        lambda: classifier(convolutions(relu=lambda: ops.relu), pooled_softmax()), is_quick=True
    ),
    "group normalization": Recipe(
        lambda: classifier(convolutions(norm=lambda: layers.GroupNormalization(4)), pooled_softmax())
    ),
    "1x1 convolution, pooling, softmax": Recipe(
        lambda: classifier(
            convolutions(), layers.Conv2D(CLASSES, 1), layers.GlobalAveragePooling2D(), layers.Activation("softmax")
        )
    ),
    "guide to image classification from scratch": Recipe(made.from_scratch, "logits"),
    "squeeze and excitation": Recipe(lambda: classifier(convolutions(), made.squeeze_and_excite, pooled_softmax())),
    "self-attention over positions": Recipe(lambda: classifier(convolutions(), made.self_attention, pooled_softmax())),
    "guide to mixed precision": Recipe(made.mixed, precision="mixed_float16"),
    "all 20 augmentations in front": Recipe(
        lambda: classifier(*made.augmentations(), convolutions(), pooled_softmax())
    ),
    "global max pooling": Recipe(
        lambda: classifier(convolutions(), layers.GlobalMaxPooling2D(), layers.Dense(CLASSES)), "logits"
    ),
    "TensorFlow's tutorial on image classification: Flatten": Recipe(
        made.tutorial_of_tensorflow, "logits", is_quick=True
    ),
    "mean and maximum side by side": Recipe(
        lambda: classifier(convolutions(), made.mean_and_maximum, layers.Dense(CLASSES)), "logits"
    ),
    "several labels per image: sigmoid": Recipe(
        lambda: classifier(
            convolutions(), layers.GlobalAveragePooling2D(), layers.Dense(CLASSES, activation="sigmoid")
        ),
        several=True,
    ),
    "regression: one unit, mean squared error": Recipe(
        lambda: classifier(convolutions(), layers.GlobalAveragePooling2D(), layers.Dense(1)), "logits"
    ),
    "two inputs": Recipe(made.two_inputs, "logits"),
    "a custom layer": Recipe(lambda: classifier(convolutions(relu=made.Swish), pooled_softmax())),
}

if __name__ == "__main__":
    main()
