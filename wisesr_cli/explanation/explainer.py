"""Explains the logits of a trained model: the exact contribution of every position of the feature map.

The mathematics is in `attribution`. Here images become records, in order and in constant memory; each sum of
contributions is compared with the model's own logit.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.data.oddities import Oddities
from wisesr_cli.data.stream import Decoded, decode_in_order
from wisesr_cli.engines.keras import KerasEngine
from wisesr_cli.errors import DataError, RunError, WisesrError
from wisesr_cli.evaluation.probabilities import probabilities_of
from wisesr_cli.explanation.attribution import (
    Numbers,
    Values,
    WeightedSums,
    classifier_columns,
    contributions,
    is_linear,
    is_piecewise,
    pull_back,
    sizes_added,
)
from wisesr_cli.explanation.position_weights import HeadWeights, mixes_channels, read_position_weights
from wisesr_cli.explanation.receptive_field import ReceptiveField, find_receptive_field
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.listening import Listener
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.keras_start import DeviceChoice
from wisesr_cli.model_files.archive import CheckedModel
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.models.backbones import BACKBONE_LAYER
from wisesr_cli.models.hidden import is_hidden
from wisesr_cli.models.image_sizes import ImageSize
from wisesr_cli.results.streams import Contribution, Explanation
from wisesr_cli.text import visible

# Rows and columns in an array (images, classes), and the logits there as sums.
Placed = tuple[NDArray[Any], NDArray[Any], WeightedSums]

TOLERANCE = 1e-5  # of a logit, relative to the sum of absolute terms; float32 reaches 1e-7
MOST_GIVEN = 12  # labels of an image that are explained without a request
KEPT_NUMBERS = 1 << 24  # cached coefficients of classes: 128 MiB


@dataclass(frozen=True)
class Decision:
    """The logits of one image, float32 (classes,), and the contributions to the two largest and the requested ones."""

    logits: NDArray[np.float32]
    predicted: Contribution
    runner_up: Contribution | None  # None where an image may have several labels, which do not compete
    asked: tuple[Contribution, ...] = ()  # of several labels, the given ones, unless others were requested
    score: float = 0.0  # the probability of the predicted class
    scores: dict[str, float] | None = None  # of several labels, the probability of each explained one


class Explainer:
    """A loaded model whose logits can be explained; `keras_start.start` has been called before.

    Attributes:
        feature_map: height, width and channels of the feature map.
        is_linear: whether the coefficients hold for every image, or only for a given one (gmp, fc, hidden layers).
        is_piecewise: whether they hold near each image; with curved hidden layers, only the sum is exact there.
        bands: which bands of an image pictures show, as `color.shown` takes them.
        receptive_field: which pixels each position can see; None if unknown.

    Raises:
        RunError: the file is damaged, is not a model of wisesr train, or its head cannot be explained.
    """

    def __init__(self, checked: CheckedModel, image_size: ImageSize | None = None) -> None:
        import keras

        self.path, self._engine = checked.path, KerasEngine(checked, image_size=image_size)
        self.info: ModelInfo = self._engine.info
        model = self._engine.model
        try:
            *self._pooling, self._classifier = _head_layers(model)
            self.is_linear, self.is_piecewise = is_linear(self._pooling), is_piecewise(self._pooling)
            classifier_columns(self._classifier, [0])
        except RunError as error:
            raise RunError(f"{visible(self.path)}: cannot be explained: {error}") from None
        feature_map = self._pooling[0].input
        height, width, channels = feature_map.shape[1:]
        self.feature_map: tuple[int, int, int] = (height, width, channels)
        between = [] if self.is_linear else [layer.output for layer in self._pooling]
        self._model = keras.Model(model.inputs[0], [feature_map, *between, model.outputs[0]])
        self.receptive_field: ReceptiveField | None = find_receptive_field(keras.Model(model.inputs[0], feature_map))
        self.bands: tuple[int, ...] = ()
        self._rows = 0  # of the largest batch so far
        self.logit_sum = lru_cache(max(1, KEPT_NUMBERS // prod(self.feature_map)))(self._as_sum)

    @property
    def statement(self) -> str:
        """One sentence about what is exact in a contribution map."""
        height, width, _ = self.feature_map
        scope = "exact" if self.is_linear else "exact for this image only,"
        formula = "sum + bias = logit"
        if not self.is_piecewise:
            formula += ", with each hidden unit's gain for this image: not how the logit would change"
        pooled = self._pooled
        features = "; the pooled features are such sums for every image" if pooled and not self.is_linear else ""
        return (
            f"{scope} on the feature map of {height}x{width} positions ({formula}{features}), not on pixels: "
            f"{_visibility(self.receptive_field, self.info.image_size)}"
        )

    @property
    def _pooled(self) -> list[Any]:
        """The layers before the hidden ones, if only the hidden ones are not linear; else none."""
        first = next((number for number, layer in enumerate(self._pooling) if is_hidden(layer)), len(self._pooling))
        pooling = self._pooling[:first]
        return pooling if is_linear(pooling) else []

    def explain(self, pixels: NDArray[np.uint8], labels: Sequence[int] = ()) -> list[Decision]:
        """Return the contributions to the logits of images.

        Args:
            pixels: uint8 (batch, height, width, channels), at the model's image size.
            labels: indices of classes to explain in addition to the two with the largest logits.

        Raises:
            DataError: the logits are not finite.
            WisesrError: the contributions do not add up to the model's logits; a bug.
        """
        if not len(pixels):
            return []
        feature_maps, *between, logits = self._compute(pixels)
        if not np.isfinite(logits).all():
            raise DataError(
                "the model's logits are not finite, so nothing can be explained; train again with a lower learning "
                "rate, or in float32"
            )
        largest = np.argsort(-logits, axis=1, kind="stable")[:, :2]
        asked = [tuple(labels) or self._given(row) for row in logits]
        most = max(map(len, asked))
        filled = np.array([(*row, *(most - len(row)) * (0,)) for row in asked], np.int64).reshape(len(pixels), most)
        classes = np.hstack([largest, filled])
        maps, biases = np.empty((*classes.shape, *self.feature_map[:2])), np.empty(classes.shape)
        sums = self._by_class(classes) if self.is_linear else self._by_image(classes, [feature_maps, *between])
        for images, places, wanted in sums:
            features, chosen = feature_maps[images], classes[images, places]
            found = contributions(wanted, features)
            self._check(found.sum(axis=(1, 2)) + wanted.constants, logits[images, chosen], chosen, wanted, features)
            maps[images, places], biases[images, places] = found, wanted.constants
        return [
            self._decision(logits[image], classes[image], maps[image], biases[image], 2 + len(asked[image]))
            for image in range(len(maps))
        ]

    def _given(self, logits: NDArray[np.float32]) -> tuple[int, ...]:
        """Return the labels given to an image, best first and at most `MOST_GIVEN`; none if images have one label."""
        if self.info.thresholds is None:
            return ()
        probabilities = probabilities_of(logits[None], self.info)[0]
        order = np.argsort(-probabilities, kind="stable")
        given = order[probabilities[order] >= np.asarray(self.info.thresholds)[order]]
        return tuple(given[:MOST_GIVEN].tolist())

    def weights(self) -> HeadWeights:
        """Return the position weights of the head; raises a `RunError` if none hold for every image (gmp, fc).

        With hidden layers, there are no weights per class.
        """
        head, pooling = self.info.head, self._pooling if self.is_linear else self._pooled
        if not pooling or (not self.is_linear and mixes_channels(pooling)):
            raise RunError(
                f"{visible(self.path)}: the head '{visible(head)}' has no position weights: which position counts "
                "depends on the image; explain images instead"
            )
        logit_sum = self.logit_sum if self.is_linear else None
        return read_position_weights(head, pooling, self._classifier, logit_sum, self.info.class_names)

    def _compute(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return feature maps, the head's intermediate outputs if needed, and logits, from one forward pass.

        A batch smaller than the largest so far is padded, as a new size would be traced again.
        """
        count = len(pixels)
        self._rows = max(self._rows, count)
        filler = np.zeros((self._rows - count, *pixels.shape[1:]), np.uint8)
        outputs = self._engine.outputs(self._model, np.concatenate([pixels, filler]))
        return [output[:count] for output in outputs]

    def _as_sum(self, label: int) -> WeightedSums:
        """Return the logit of a class as a sum over the feature map, for any image."""
        return pull_back(self._pooling, classifier_columns(self._classifier, [label]))

    def _by_class(self, classes: NDArray[np.int64]) -> Iterator[Placed]:
        """Yield, for every class, its positions in `classes` (images, classes), and its logit as a sum."""
        for label in np.unique(classes).tolist():
            images, places = np.nonzero(classes == label)
            yield images, places, self.logit_sum(label)

    def _by_image(self, classes: NDArray[np.int64], outputs: Sequence[NDArray[np.float32]]) -> Iterator[Placed]:
        """Yield the same for blocks of images and classes, each image in its own linear piece."""
        every = np.indices(classes.shape).reshape(2, -1)
        step = max(1, KEPT_NUMBERS // prod(self.feature_map))
        for images, places in (every[:, start : start + step] for start in range(0, classes.size, step)):
            values = [Values(inputs[images], given[images]) for inputs, given in pairwise(outputs)]
            columns = classifier_columns(self._classifier, classes[images, places].tolist())
            yield images, places, pull_back(self._pooling, columns, values)

    def _check(
        self,
        sums: Numbers,
        logits: NDArray[np.float32],
        labels: NDArray[np.int64],
        written: WeightedSums,
        features: NDArray[np.float32],
    ) -> None:
        """Raise if contributions do not add up to the model's logits, so that no wrong map is shown."""
        wrong = ~(np.abs(sums - logits) <= TOLERANCE * sizes_added(written, features))  # includes NaN
        for row in np.flatnonzero(wrong)[:1].tolist():
            name = self.info.class_names[labels[row]]
            raise WisesrError(
                f"{visible(self.path)}: the contributions to '{visible(name)}' add up to {sums[row]:.7g}, but the "
                f"model's logit is {logits[row]:.7g}: no explanation is given; please report this"
            )

    def _decision(
        self, logits: NDArray[np.float32], classes: NDArray[np.int64], maps: Numbers, biases: Numbers, count: int
    ) -> Decision:
        """Return the decision of an image, whose first `count` classes are those to explain."""
        predicted, runner_up, *asked = (
            Contribution(
                label=self.info.class_names[label],
                logit=float(logits[label]),
                bias=float(bias),
                map=tuple(map(tuple, values.tolist())),
                sum=math.fsum(values.ravel()),
            )
            for label, values, bias in zip(classes[:count].tolist(), maps[:count], biases[:count], strict=True)
        )
        probabilities = probabilities_of(logits[None], self.info)[0]
        score = float(probabilities.max())
        if not self.info.is_multilabel:
            return Decision(logits, predicted, runner_up, tuple(asked), score)
        scores = {self.info.class_names[label]: float(probabilities[label]) for label in classes[:count].tolist()}
        return Decision(logits, predicted, None, tuple(asked), score, scores)


def start_explainer(
    model: CheckedModel, device: DeviceChoice, listener: Listener, image_size: ImageSize | None = None
) -> Explainer:
    """Start Keras in float32, note its device, and return a model's explainer; `image_size` None is the model's own."""
    listener.note(f"device: {keras_start.start(device, precision='float32')}")
    return Explainer(model, image_size)


def explain_paths(
    explainer: Explainer,
    paths: Iterable[str],
    *,
    labels: Sequence[int] = (),
    batch_size: int = 32,
    pixel_limit: int = PIXEL_LIMIT,
    oddities: Oddities | None = None,
) -> Generator[Explanation, None, None]:
    """Yield a record per path, in order; only a few batches are in memory at any time.

    An unreadable image gets a record with the reason. `labels` are the indices of the requested classes; `batch_size`
    does not change results; `oddities` counts those of readable images. Raises as `Explainer.explain` does.
    """
    info, oddities = explainer.info, oddities or Oddities()
    batches = decode_in_order(
        paths, image_size=info.image_size, preparation=info.preparation, batch_size=batch_size, pixel_limit=pixel_limit
    )
    with closing(batches):
        for batch in batches:
            readable = [decoded.pixels for decoded in batch if decoded.pixels is not None]
            decisions = iter(explainer.explain(np.stack(readable), labels) if readable else [])
            for decoded in batch:
                if decoded.header is not None:
                    oddities.add(decoded.path, decoded.header)
                yield _record(decoded, None if decoded.pixels is None else next(decisions))


def _record(decoded: Decoded, decision: Decision | None) -> Explanation:
    if decision is None:
        return Explanation(decoded.path, error=decoded.error)
    found = decision.predicted, decision.runner_up, decision.score, decision.asked
    return Explanation(decoded.path, *found, scores=decision.scores)


def _head_layers(model: Any) -> list[Any]:
    """Return the layers after the backbone, in order of computation; the last one returns the logits."""
    operations = getattr(model, "operations", [])
    before = next((number for number, operation in enumerate(operations) if operation.name == BACKBONE_LAYER), None)
    if before is None:
        raise RunError(f"the model has no layer '{BACKBONE_LAYER}'")
    shape = getattr(operations[before].output, "shape", ())
    if len(shape) != 4 or None in shape[1:]:
        raise RunError(f"its backbone gives {shape}, not a feature map of known size")
    head = operations[before + 1 :]
    inputs, outputs = [layer.input for layer in head], [layer.output for layer in head]
    is_row = len(head) > 1 and all(given is taken for given, taken in zip(outputs, inputs[1:], strict=False))
    if not is_row or outputs[-1] is not model.outputs[0] or getattr(inputs[0], "shape", None) != shape:
        raise RunError("the layers after its backbone are not a plain sequence")
    return list(head)


def _visibility(field: ReceptiveField | None, image_size: tuple[int, int]) -> str:
    height, width = image_size
    if field is None:
        return f"which of the image's {height}x{width} pixels a position sees is not known"
    size = "" if field.size is None else f" (its receptive field is {field.size[0]}x{field.size[1]})"
    if field.covers_image:
        return f"each position sees the whole image of {height}x{width} pixels{size}"
    seen = field.most_seen
    rest = "" if seen == field.size else size
    return f"each position sees at most {seen[0]}x{seen[1]} of the image's {height}x{width} pixels{rest}"
