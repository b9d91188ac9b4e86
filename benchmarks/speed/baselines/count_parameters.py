"""Builds backbones with every head in plain Keras, and prints the parameter count of each model.

python count_parameters.py 224 10 Xception MobileNetV2
"""

import gc
import sys

import keras
from keras import layers

HEADS = ("gap", "gmp", "depthwise", "wise", "flatten", "fc")


def features_of(feature_map, head):
    height, width = feature_map.shape[1:3]
    if head == "gap":
        return layers.GlobalAveragePooling2D()(feature_map)
    if head == "gmp":
        return layers.GlobalMaxPooling2D()(feature_map)
    if head == "flatten":
        return layers.Flatten()(feature_map)
    if head == "fc":
        hidden = layers.Dense(4096, "relu")(layers.Flatten()(feature_map))
        return layers.Dense(4096, "relu")(hidden)
    if head == "wise":
        feature_map = layers.AveragePooling2D((height // 6 + 1, width // 6 + 1))(feature_map)
    kernel = feature_map.shape[1:3]
    return layers.Flatten()(layers.DepthwiseConv2D(kernel, depthwise_constraint="non_neg")(feature_map))


def build(backbone, head, side, classes):
    pixels = keras.Input((side, side, 3))
    application = getattr(keras.applications, backbone)
    feature_map = application(include_top=False, weights=None, input_tensor=pixels).output
    return keras.Model(pixels, layers.Dense(classes)(features_of(feature_map, head)))


if __name__ == "__main__":
    side, classes, *backbones = sys.argv[1:]
    for backbone in backbones:
        for head in HEADS:
            print(backbone, head, build(backbone, head, int(side), int(classes)).count_params(), flush=True)
            keras.utils.clear_session()
            gc.collect()
