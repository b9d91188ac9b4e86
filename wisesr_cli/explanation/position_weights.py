"""The weights that a trained head gives to positions, independent of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wisesr_cli.explanation.attribution import Numbers, WeightedSums, classifier_columns, pull_back

TOP_CHANNELS = 8
MIXING = {"Dense", "Flatten"}  # behind these, no feature belongs to one channel of the map


@dataclass(frozen=True)
class ChannelWeights:
    """The contribution of one channel to a class: at each position, classifier weight times position weight.

    `weights` (height, width) are the position weights. In a flattened head, they are the classifier weights, of which
    each position has one, and `classifier_weight` is None. `strength` is the sum of the products' absolute values.
    """

    channel: int
    classifier_weight: float | None
    strength: float
    weights: Numbers


@dataclass(frozen=True)
class ClassWeights:
    """How a class weighs positions: `average` (height, width) is the mean over channels of absolute weights.

    Weights are those of features in the logit. `channels` are the strongest ones, in descending order. A channel that
    is rarely active may have large weights.
    """

    label: str
    average: Numbers
    channels: tuple[ChannelWeights, ...]


@dataclass(frozen=True)
class HeadWeights:
    """The position weights of a head.

    `weights` is (height, width, channels): the feature of channel c is the sum over positions of weight times value,
    plus a bias. It is None for a flattened head, whose classes share no weights. `average` (height, width) is the mean
    of the weights over channels, or else of absolute weights over channels and classes. `uniform` is the weight in
    global average pooling. `logit_sum` gives the logit of a class as a sum over the feature map; it is None where
    hidden layers stand between features and classes: how a class weighs positions then depends on the image.
    """

    head: str
    weights: Numbers | None
    average: Numbers
    uniform: float
    class_names: tuple[str, ...]
    classifier: Any
    logit_sum: Callable[[int], WeightedSums] | None

    @property
    def statement(self) -> str:
        """One sentence that describes the weights."""
        height, width = self.average.shape
        hidden = (
            "" if self.logit_sum else "; as the head has hidden layers, how a class weighs them depends on the image"
        )
        if self.weights is None:
            return (
                f"the head '{self.head}' has weights of its own for every class at each of {height}x{width} positions; "
                "the mean of their absolute values is shown"
            )
        if np.ptp(self.weights) == 0:
            none = f"the head '{self.head}' has learned no position weights"
            return f"{none}: each of {height}x{width} counts the same{hidden}"
        return (
            f"position weights of the head '{self.head}' at {height}x{width} positions, averaged over "
            f"{self.weights.shape[2]} channels; {self.uniform:.3g} everywhere would be global average pooling{hidden}"
        )

    def of_class(self, label: int, channels: int = TOP_CHANNELS) -> ClassWeights:
        """Return the position weights of a class, by its index, and its `channels` strongest channels."""
        assert self.logit_sum is not None
        coefficients = self.logit_sum(label).coefficients[0]  # (height, width, channels)
        sizes = np.abs(coefficients)
        strength = sizes.sum(axis=(0, 1))
        strongest = np.argsort(-strength, kind="stable")[:channels].tolist()
        column = classifier_columns(self.classifier, [label]).coefficients[0]
        rows = (
            # A copy: a view would keep the coefficients of all channels in memory, for every class.
            ChannelWeights(channel, None, float(strength[channel]), coefficients[:, :, channel].copy())
            if self.weights is None
            else ChannelWeights(channel, float(column[channel]), float(strength[channel]), self.weights[:, :, channel])
            for channel in strongest
        )
        return ClassWeights(self.class_names[label], sizes.mean(axis=2), tuple(rows))


def mixes_channels(pooling: Sequence[Any]) -> bool:
    """Return whether these layers mix channels, so that no feature belongs to a single channel of the map."""
    return any(type(layer).__name__ in MIXING for layer in pooling)


def read_position_weights(
    head: str,
    pooling: Sequence[Any],
    classifier: Any,
    logit_sum: Callable[[int], WeightedSums] | None,
    class_names: tuple[str, ...],
) -> HeadWeights:
    """Return the position weights of a head.

    `pooling` are the layers behind the feature map, before hidden layers, all linear; without a `logit_sum`, see
    `HeadWeights`, they must not mix channels.
    """
    height, width, channels = pooling[0].input.shape[1:]
    weights, average = None, None
    if mixes_channels(pooling):
        assert logit_sum is not None
        sizes = (np.abs(logit_sum(label).coefficients[0]).mean(axis=2) for label in range(len(class_names)))
        average = sum(sizes, np.zeros((height, width))) / len(class_names)
    else:
        weights = pull_back(pooling, WeightedSums(np.ones((1, channels)), np.zeros(1), np.zeros(1))).coefficients[0]
        average = weights.mean(axis=2)
    return HeadWeights(head, weights, average, 1 / (height * width), class_names, classifier, logit_sum)
