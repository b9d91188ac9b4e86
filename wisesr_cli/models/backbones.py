"""The backbones: everything before the feature map, and the input scaling of each.

To add one: a row in `BACKBONES` with its Keras name, the input scaling it was trained with, and its native image size;
then run `python tests/support/backbone_costs.py`, which writes its costs. Only the build functions import Keras.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from wisesr_cli.errors import ConfigError
from wisesr_cli.text import joined, nearest, visible

# How pixels 0..255 are scaled before the backbone. `caffe`: BGR minus the ImageNet mean; `tf`: -1..1; `torch`: minus
# the ImageNet mean, divided by its deviation; `unit`: 0..1; `none`: unchanged. `measured`, if pixels are not RGB: a
# factor and an offset for each channel, see `channels.py`.
Preprocessing = Literal["caffe", "tf", "torch", "unit", "none"]
AnyScaling = Preprocessing | Literal["measured"]

BACKBONE_LAYER = "backbone"  # the name of the backbone inside a classifier
FROM_WEIGHTS = "from_weights"  # not a row of `BACKBONES`: the backbone in the file of `model.weights`

MAX_MOMENTUM = 0.99  # Keras' MobileNets have 0.999: a short run would hardly change their statistics
SHORT_MOMENTUM = 0.9
SHORT_EPOCH_STEPS = 100

_CAFFE_MEAN = (103.939, 116.779, 123.68)  # blue, green, red
_TORCH_MEAN = (0.485, 0.456, 0.406)
_TORCH_DEVIATION = (0.229, 0.224, 0.225)
# Mean and deviation of the pixels of ImageNet's photos, in 0..255, averaged over their colours.
PHOTO_MEAN, PHOTO_SPREAD = 255.0 * sum(_TORCH_MEAN) / 3, 255.0 * sum(_TORCH_DEVIATION) / 3


@dataclass(frozen=True)
class Backbone:
    """A row of `BACKBONES`.

    `scaling` is what it was trained with; `none` for backbones that scale inside, or that are only trained from
    scratch. `build` takes (height, width) and a name.
    """

    scaling: Preprocessing
    native_size: int
    build: Callable[[tuple[int, int], str], Any]
    minimum_size: int = 32
    scales_inside: bool = False
    from_scratch: bool = False  # no ImageNet weights exist


def canonical_name(name: str) -> str:
    """Return a backbone's name as Keras spells it, given in any case; raises `ValueError` with all names."""
    names = (*BACKBONES, FROM_WEIGHTS)
    for known in names:
        if known.lower() == name.lower():
            return known
    raise ValueError(f"no backbone is called '{visible(name)}'.{nearest(name, names)} Allowed: {joined(names)}")


def row_of(name: str) -> Backbone:
    """Return the row of a backbone; one from a file has only defaults."""
    return BACKBONES.get(name, _FROM_FILE)


def build_backbone(name: str, image_size: tuple[int, int]) -> Any:
    """Return a Keras model from scaled pixels (batch, height, width, 3) to a feature map, its weights random.

    Raises as `check_backbone` does.
    """
    check_backbone(name, image_size, None)
    return BACKBONES[name].build(image_size, BACKBONE_LAYER)


def check_backbone(name: str, image_size: tuple[int, int], weights: str | None) -> None:
    """Raise `ConfigError` when the image is too small for a backbone, or the backbone has no such weights."""
    if name == FROM_WEIGHTS:
        _check_from_weights(weights)
        return
    height, width = image_size
    minimum = BACKBONES[name].minimum_size
    if min(image_size) < minimum:
        raise ConfigError(f"data.image_size is {height}x{width}, but {name} needs at least {minimum}x{minimum}")
    if weights == "imagenet" and BACKBONES[name].from_scratch:
        raise ConfigError(f"model.weights is imagenet, but {name} starts from scratch; allowed: none, a file, a run")


def _check_from_weights(weights: str | None) -> None:
    if weights in (None, "auto", "imagenet") or weights.endswith((".h5", ".hdf5")):
        given = "none" if weights is None else visible(weights)
        raise ConfigError(
            f"model.backbone is {FROM_WEIGHTS}, but model.weights is {given}, which holds no backbone; give a run, or "
            "a .keras file of one (wisesr upgrade makes a run of a whole classifier, .h5 too)"
        )


def cut_backbone(backbone: Any, layer_name: str) -> Any:
    """Return the backbone up to a layer; raises `ConfigError` unless the layer exists and gives a feature map."""
    import keras

    layers = {layer.name: layer for layer in backbone.layers}
    if layer_name not in layers:
        maps = [name for name, layer in layers.items() if len(_output_shape(layer)) == 4]
        raise ConfigError(
            f"model.feature_layer is '{layer_name}', which the backbone does not have.{nearest(layer_name, maps)} "
            f"Its last ones are {joined(maps[-8:])}"
        )
    layer = layers[layer_name]
    if len(_output_shape(layer)) != 4:
        raise ConfigError(f"model.feature_layer '{layer_name}' gives {_output_shape(layer)}, not a feature map")
    return keras.Model(backbone.input, layer.output, name=backbone.name)


def _output_shape(layer: Any) -> tuple[Any, ...]:
    output = layer.output
    return tuple(output.shape) if hasattr(output, "shape") else ()


def limit_momentum(backbone: Any, steps_per_epoch: int) -> None:
    """Lower the momentum of batch norm, so that even a short training adapts the statistics to its images."""
    import keras

    momentum = SHORT_MOMENTUM if steps_per_epoch < SHORT_EPOCH_STEPS else MAX_MOMENTUM
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = min(layer.momentum, momentum)


def resolve_preprocessing(name: str, preprocessing: str) -> Preprocessing:
    """Return the scaling for `model.preprocessing`; `auto` is the one of the backbone's ImageNet weights."""
    return BACKBONES[name].scaling if preprocessing == "auto" else preprocessing  # type: ignore[return-value]


def preprocess(
    pixels: Any, preprocessing: AnyScaling, factors: Sequence[float] = (), offsets: Sequence[float] = ()
) -> Any:
    """Scale symbolic pixels (batch, height, width, channels) in 0..255; factors and offsets are those of `measured`."""
    import keras

    if preprocessing == "measured":
        return keras.layers.Rescaling(list(factors), list(offsets), name="measured_scaling")(pixels)

    if preprocessing == "caffe":
        pixels = pixels[..., ::-1]
        return keras.layers.Rescaling(1.0, [-mean for mean in _CAFFE_MEAN], name="caffe_scaling")(pixels)
    if preprocessing == "tf":
        return keras.layers.Rescaling(1.0 / 127.5, -1.0, name="tf_scaling")(pixels)
    if preprocessing == "torch":
        scale = [1.0 / (255.0 * deviation) for deviation in _TORCH_DEVIATION]
        offset = [-mean / deviation for mean, deviation in zip(_TORCH_MEAN, _TORCH_DEVIATION, strict=True)]
        return keras.layers.Rescaling(scale, offset, name="torch_scaling")(pixels)
    if preprocessing == "unit":
        return keras.layers.Rescaling(1.0 / 255.0, name="unit_scaling")(pixels)
    return pixels


def _application(name: str) -> Callable[[tuple[int, int], str], Any]:
    """Return the build function of a model of `keras.applications`."""

    def build(image_size: tuple[int, int], model_name: str) -> Any:
        import keras

        application = getattr(keras.applications, name)
        backbone = application(include_top=False, weights=None, input_shape=(*image_size, 3))
        # Renamed afterwards: EfficientNetV2 selects its settings by the name argument.
        return keras.Model(backbone.input, backbone.output, name=model_name)

    return build


def _efficientnet(name: str) -> Callable[[tuple[int, int], str], Any]:
    """Return the build function of an EfficientNet B0 to B7.

    Keras adds a second input scaling only with ImageNet weights. Here it is always added, so that weights are
    interchangeable between models.
    """
    build_plain = _application(name)

    def build(image_size: tuple[int, int], model_name: str) -> Any:
        import keras

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            output = layer(*args, **kwargs)
            if not isinstance(layer, keras.layers.Normalization):
                return output
            scale = [1.0 / math.sqrt(deviation) for deviation in _TORCH_DEVIATION]
            return keras.layers.Rescaling(scale, name="imagenet_scaling")(output)

        return keras.models.clone_model(build_plain(image_size, model_name), call_function=call)

    return build


def _build_compact(image_size: tuple[int, int], model_name: str) -> Any:
    """Build seven 3x3 convolutions with a total stride of 8, for images up to about 128 pixels."""
    import keras

    inputs = x = keras.Input((*image_size, 3))
    x = keras.layers.Rescaling(1.0 / 127.5, -1.0, name="scaling")(x)
    x = _convolution(x, 32, kernel=3, stride=1, name="stem")
    for stage, filters in enumerate((64, 128, 256), start=1):
        x = _convolution(x, filters, kernel=3, stride=2, name=f"stage{stage}_down")
        x = _convolution(x, filters, kernel=3, stride=1, name=f"stage{stage}")
    return keras.Model(inputs, x, name=model_name)


def _build_compact_small(image_size: tuple[int, int], model_name: str) -> Any:
    """Build three convolutions with a receptive field of 12 pixels, deliberately local, for the demo."""
    import keras

    inputs = x = keras.Input((*image_size, 3))
    x = keras.layers.Rescaling(1.0 / 127.5, -1.0, name="scaling")(x)
    x = _convolution(x, 24, kernel=4, stride=4, name="patch")
    x = _convolution(x, 48, kernel=3, stride=2, name="down")
    x = _convolution(x, 64, kernel=1, stride=1, name="mix")
    return keras.Model(inputs, x, name=model_name)


def _convolution(x: Any, filters: int, *, kernel: int, stride: int, name: str) -> Any:
    import keras

    x = keras.layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=f"{name}_convolution")(x)
    x = keras.layers.BatchNormalization(momentum=SHORT_MOMENTUM, name=f"{name}_norm")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _rows(scaling: Preprocessing, native_size: int, *names: str, minimum_size: int = 32) -> dict[str, Backbone]:
    return {name: Backbone(scaling, native_size, _application(name), minimum_size) for name in names}


def _rows_inside(native_size: int, *names: str) -> dict[str, Backbone]:
    builders = {name: _efficientnet if name.startswith("EfficientNetB") else _application for name in names}
    return {name: Backbone("none", native_size, build(name), scales_inside=True) for name, build in builders.items()}


BACKBONES: dict[str, Backbone] = {
    "compact": Backbone("none", 64, _build_compact, 8, scales_inside=True, from_scratch=True),
    "compact_small": Backbone("none", 96, _build_compact_small, 8, scales_inside=True, from_scratch=True),
    **_rows("tf", 224, "MobileNet", "MobileNetV2"),
    **_rows_inside(224, "MobileNetV3Small", "MobileNetV3Large"),
    **_rows("tf", 224, "NASNetMobile"),
    **_rows("tf", 331, "NASNetLarge"),
    **_rows("torch", 224, "DenseNet121", "DenseNet169", "DenseNet201"),
    **_rows_inside(224, "EfficientNetB0"),
    **_rows_inside(240, "EfficientNetB1"),
    **_rows_inside(260, "EfficientNetB2"),
    **_rows_inside(300, "EfficientNetB3"),
    **_rows_inside(380, "EfficientNetB4"),
    **_rows_inside(456, "EfficientNetB5"),
    **_rows_inside(528, "EfficientNetB6"),
    **_rows_inside(600, "EfficientNetB7"),
    **_rows_inside(224, "EfficientNetV2B0"),
    **_rows_inside(240, "EfficientNetV2B1"),
    **_rows_inside(260, "EfficientNetV2B2"),
    **_rows_inside(300, "EfficientNetV2B3"),
    **_rows_inside(384, "EfficientNetV2S"),
    **_rows_inside(480, "EfficientNetV2M", "EfficientNetV2L"),
    **_rows_inside(224, "ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge"),
    **_rows("caffe", 224, "ResNet50", "ResNet101", "ResNet152"),
    **_rows("tf", 224, "ResNet50V2", "ResNet101V2", "ResNet152V2"),
    **_rows("tf", 299, "InceptionV3", "InceptionResNetV2", minimum_size=75),
    **_rows("tf", 299, "Xception", minimum_size=71),
    **_rows("caffe", 224, "VGG16", "VGG19"),
}
_FROM_FILE = Backbone("none", 0, lambda image_size, name: None, minimum_size=8)
