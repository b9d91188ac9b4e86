"""Every class that a model of wisesr is made of, as Keras writes it: module, class, registered name.

Made by `python tests/allowed_classes.py`, which builds every backbone with every preprocessing and head; a test
makes it again. Nothing else in a model file is ever loaded.
"""

from __future__ import annotations

ALLOWED: frozenset[tuple[str | None, str, str | None]] = frozenset(
    {
        (None, "__ellipsis__", None),
        (None, "__keras_tensor__", None),
        (None, "__slice__", None),
        ("keras", "DTypePolicy", None),
        ("keras", "Sequential", None),
        ("keras.initializers", "GlorotUniform", None),
        ("keras.initializers", "HeNormal", None),
        ("keras.initializers", "Ones", None),
        ("keras.initializers", "RandomNormal", None),
        ("keras.initializers", "VarianceScaling", None),
        ("keras.initializers", "Zeros", None),
        ("keras.layers", "Activation", None),
        ("keras.layers", "Add", None),
        ("keras.layers", "AveragePooling2D", None),
        ("keras.layers", "BatchNormalization", None),
        ("keras.layers", "Concatenate", None),
        ("keras.layers", "Conv2D", None),
        ("keras.layers", "Cropping2D", None),
        ("keras.layers", "Dense", None),
        ("keras.layers", "DepthwiseConv2D", None),
        ("keras.layers", "Dropout", None),
        ("keras.layers", "Flatten", None),
        ("keras.layers", "GlobalAveragePooling2D", None),
        ("keras.layers", "GlobalMaxPooling2D", None),
        ("keras.layers", "InputLayer", None),
        ("keras.layers", "LayerNormalization", None),
        ("keras.layers", "MaxPooling2D", None),
        ("keras.layers", "Multiply", None),
        ("keras.layers", "Normalization", None),
        ("keras.layers", "ReLU", None),
        ("keras.layers", "Rescaling", None),
        ("keras.layers", "Reshape", None),
        ("keras.layers", "SeparableConv2D", None),
        ("keras.layers", "ZeroPadding2D", None),
        ("keras.src.applications.convnext", "LayerScale", "LayerScale"),
        ("keras.src.applications.inception_resnet_v2", "CustomScaleLayer", "CustomScaleLayer"),
        ("keras.src.models.functional", "Functional", "Functional"),
        ("keras.src.ops.numpy", "Add", "Add"),
        ("keras.src.ops.numpy", "GetItem", "GetItem"),
        ("keras.src.ops.numpy", "Multiply", "Multiply"),
        ("wisesr_cli.layers", "PositionWeightedPooling2D", "wisesr>PositionWeightedPooling2D"),
        ("wisesr_cli.layers", "TileAveragePooling2D", "wisesr>TileAveragePooling2D"),
    }
)
