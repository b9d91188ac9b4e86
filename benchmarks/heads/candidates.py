"""Candidates for the default head, beyond its options: ways to learn position weights, tried on feature maps.

They are built on reduced maps, as `trials.builder` builds the package's heads, and start equal to global average
pooling. `STEPS` scales how far one update moves a weight relative to its start: Adam moves every variable by about the
learning rate, so weights that start at 1/9 move, relatively, by nine times that, and those at 1/49 by 49 times. Under
Adam, starting unit-sum weights elsewhere, writing them as GAP times (1 + step x delta), and giving them a separate
learning rate are equivalent, so there is one candidate for the three.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from benchmarks.heads.maps import start_weights
from benchmarks.heads.trials import Build
from wisesr_cli.layers import PositionWeightedPooling2D
from wisesr_cli.models.heads import FeatureMap, HeadOptions, WiseOptions

STEP = 49  # relative to the start, as on a grid of 7x7
FREQUENCIES = 3  # of the cosine basis, along each side


def stepped(step: float) -> Callable[[HeadOptions, FeatureMap], Build]:
    """Return a candidate: unit-sum weights with a relative step of `step` times the learning rate on every grid."""

    def of(options: HeadOptions, feature_map: FeatureMap) -> Build:
        def build(shape: FeatureMap, classes: int) -> Any:
            kernel, *rest = start_weights(options, feature_map, classes)
            model = _model(shape, classes, PositionWeightedPooling2D(shape[:2], constraint="unit_sum"))
            model.set_weights([kernel / kernel.mean() / step, *rest])
            return model

        return build

    return of


def _model(shape: FeatureMap, classes: int, layer: Any) -> Any:
    """Return a model of a layer and the classifier layer after it, initialized as in the paper."""
    inputs = keras.Input(shape)
    start = keras.initializers.RandomNormal(stddev=0.01)
    return keras.Model(inputs, keras.layers.Dense(classes, kernel_initializer=start)(layer(inputs)))


def _of_layer(make: Callable[[FeatureMap], Any]) -> Callable[[HeadOptions, FeatureMap], Build]:
    def of(options: HeadOptions, feature_map: FeatureMap) -> Build:
        return lambda shape, classes: _model(shape, classes, make(shape))

    return of


class Unnormalized(PositionWeightedPooling2D):
    """GAP times (1 + step x delta), non-negative, without the constraint to a sum of 1."""

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        self.kernel.assign(ops.zeros_like(self.kernel))

    def effective_kernel(self) -> Any:
        """Return the weights of the grid."""
        return ops.relu(1.0 + STEP * self.kernel) / math.prod(self.grid_size)


class Cosines(PositionWeightedPooling2D):
    """Low-frequency unit-sum weights: 1 plus a few products of cosines along rows and columns, non-negative."""

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        basis = [
            np.cos(np.pi * (np.arange(side) + 0.5)[None, :] / side * np.arange(min(FREQUENCIES, side))[:, None])
            for side in self.grid_size
        ]
        both = np.einsum("ay,bx->abyx", *basis).reshape(-1, *self.grid_size)[1:]
        self.basis = both.astype("float32")
        self.coefficients = self.add_weight(
            name="coefficients", shape=(len(both), input_shape[-1]), initializer="zeros"
        )
        self.kernel.trainable = False

    def effective_kernel(self) -> Any:
        """Return the weights of the grid."""
        kernel = ops.relu(1.0 + STEP / 2 * ops.einsum("kyx,kc->yxc", self.basis, self.coefficients))
        return kernel / ops.maximum(ops.sum(kernel, axis=(0, 1), keepdims=True), 1e-7)


class Decayed(PositionWeightedPooling2D):
    """Unit-sum weights with a penalty that pulls them towards GAP's: their mean squared relative deviation."""

    strength = 0.03

    def call(self, inputs: Any) -> Any:
        """Return (batch, channels)."""
        relative = self.effective_kernel() * math.prod(self.grid_size) - 1.0
        self.add_loss(self.strength * ops.mean(ops.square(relative)))
        return super().call(inputs)


class ClassMasks(keras.layers.Layer):
    """Position weights per class instead of per channel: of rank 1, as each class has one mask for all channels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def build(self, shape: Any) -> None:
        """Create a mask per class, the weights of the classes, and their biases."""
        _, height, width, channels = shape
        self.cells = height * width
        self.mask = self.add_weight(name="mask", shape=(self.cells, self.classes), initializer="zeros")
        start = keras.initializers.RandomNormal(stddev=0.01)
        self.kernel = self.add_weight(name="kernel", shape=(channels, self.classes), initializer=start)
        self.bias = self.add_weight(name="bias", shape=(self.classes,), initializer="zeros")

    def call(self, inputs: Any) -> Any:
        """Return logits."""
        mask = ops.relu(1.0 + STEP * self.mask)
        mask = mask / ops.maximum(ops.sum(mask, axis=0, keepdims=True), 1e-7)
        positions = ops.reshape(inputs, (-1, self.cells, inputs.shape[-1])) @ self.kernel
        return ops.sum(positions * mask, axis=1) + self.bias


def class_masks(options: HeadOptions, feature_map: FeatureMap) -> Build:
    """Return the candidate with a mask per class."""

    def build(shape: FeatureMap, classes: int) -> Any:
        inputs = keras.Input(shape)
        return keras.Model(inputs, ClassMasks(classes)(inputs))

    return build


def _unit_sum(shape: FeatureMap, layer: type[PositionWeightedPooling2D]) -> Any:
    return layer(shape[:2], constraint="unit_sum")


CANDIDATES: dict[str, Callable[[HeadOptions, FeatureMap], Build]] = {
    "wise, step 25": stepped(25),
    "wise, step 100": stepped(100),
    "wise, no unit sum, step 49": _of_layer(lambda shape: Unnormalized(shape[:2])),
    "wise, cosine basis": _of_layer(lambda shape: _unit_sum(shape, Cosines)),
    "wise, decay to uniform": _of_layer(lambda shape: _unit_sum(shape, Decayed)),
    "class masks": class_masks,
    "depthwise, step 9": stepped(9),
}
READS: dict[str, HeadOptions] = {
    "depthwise, step 9": WiseOptions(pre_pool=1),
    "wise, cosine basis": WiseOptions(pre_pool=1),
}
