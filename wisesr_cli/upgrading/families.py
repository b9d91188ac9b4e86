"""Recognises how well-known networks scale pixels, by the names of their layers. No Keras.

Most networks of `keras.applications` expect scaled pixels, and a saved model does not say how. To add a family, add a
row with a layer that only its members have.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from wisesr_cli.models.backbones import Preprocessing


@dataclass(frozen=True)
class Family:
    """Networks that share a layer `mark`, and that `keras.applications` trains on pixels scaled in the same way."""

    name: str
    mark: str
    scaling: Preprocessing


def family_of(layer_names: Collection[str]) -> Family | None:
    """Return the family of a network with these layers, or None."""
    return next((family for family in FAMILIES if family.mark in layer_names), None)


FAMILIES = (
    Family("MobileNet", "conv_dw_1", "tf"),
    Family("MobileNetV2", "block_1_expand", "tf"),
    Family("NASNet", "stem_conv1", "tf"),
    Family("DenseNet", "conv2_block1_concat", "torch"),
    Family("ResNetV2", "conv2_block1_preact_bn", "tf"),
    Family("ResNet", "conv2_block1_3_conv", "caffe"),
    Family("InceptionV3", "mixed10", "tf"),
    Family("InceptionResNetV2", "mixed_7a", "tf"),
    Family("Xception", "block2_sepconv1", "tf"),
    Family("VGG", "block5_conv1", "caffe"),
)
