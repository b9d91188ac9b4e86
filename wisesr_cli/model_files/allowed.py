"""Lists every class that wisesr models consist of, as Keras writes it: module, class, registered name.

`python tests/support/allowed_classes.py` writes `_NAMES`: it builds every backbone with every preprocessing and head,
and an ordinary third-party classifier; a test regenerates it. Nothing else in a model file is loaded.
"""

from __future__ import annotations

# Class names by module and prefix of the registered name (None: not registered).
_NAMES: dict[tuple[str | None, str | None], str] = {
    (None, None): "__ellipsis__ __keras_tensor__ __slice__ __tensor__",
    ("keras", None): "DTypePolicy Sequential",
    ("keras.initializers", None): (
        "Constant GlorotNormal GlorotUniform HeNormal HeUniform LecunNormal LecunUniform Ones RandomNormal "
        "RandomUniform TruncatedNormal VarianceScaling Zeros"
    ),
    ("keras.layers", None): (
        "Activation Add AlphaDropout AugMix Average AveragePooling2D BatchNormalization Concatenate Conv2D "
        "Cropping2D Dense DepthwiseConv2D Dropout ELU Flatten GaussianDropout GaussianNoise "
        "GlobalAveragePooling2D GlobalMaxPooling2D GroupNormalization Identity InputLayer LayerNormalization "
        "LeakyReLU MaxPooling2D Maximum Multiply Normalization PReLU RandAugment RandomBrightness "
        "RandomColorDegeneration RandomColorJitter RandomContrast RandomElasticTransform RandomErasing "
        "RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective "
        "RandomRotation RandomSaturation RandomSharpness RandomShear RandomTranslation RandomZoom ReLU "
        "Rescaling Reshape Resizing SeparableConv2D Softmax SpatialDropout2D ZeroPadding2D"
    ),
    ("keras.regularizers", None): "L1 L1L2 L2",
    ("keras.src.applications.convnext", ""): "LayerScale",
    ("keras.src.applications.inception_resnet_v2", ""): "CustomScaleLayer",
    ("keras.src.models.functional", ""): "Functional",
    ("keras.src.ops.nn", ""): "Gelu Relu Relu6 Sigmoid Silu",
    ("keras.src.ops.numpy", ""): "Add GetItem Mean Multiply Stack Subtract TrueDivide",
    ("wisesr_cli.layers", "wisesr>"): "PositionWeightedPooling2D TileAveragePooling2D",
}

ALLOWED: frozenset[tuple[str | None, str, str | None]] = frozenset(
    (module, name, None if start is None else start + name)
    for (module, start), names in _NAMES.items()
    for name in names.split()
)
