"""The ImageNet weights that Keras publishes for each backbone, without the head.

`python tests/support/released_weights.py` shows what the installed Keras downloads; a test compares it with this table.
Licences are those that Keras' documentation names for the weights. If it names none, the place that the weights come
from states the terms of use.
"""

from __future__ import annotations

from dataclasses import dataclass

from wisesr_cli.models.costs_table import BACKBONE_SIZES

BYTES_PER_PARAMETER = 4  # float32

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/"
_EFFICIENTNET = "https://storage.googleapis.com/keras-applications/"

_APACHE, _MIT, _BSD, _CC_BY = "Apache-2.0", "MIT", "BSD-3-Clause", "CC-BY-4.0"
_SLIM = "see github.com/tensorflow/models"
_TPU = "see github.com/tensorflow/tpu"
_AUTOML = "see github.com/google/automl"
_CONVNEXT = "see github.com/facebookresearch/ConvNeXt"


@dataclass(frozen=True)
class Release:
    """A published weights file; `checksum` is its SHA-256 or MD5 in hexadecimal, None where Keras has none."""

    file_name: str
    url: str
    checksum: str | None
    licence: str


def size_bytes(name: str) -> int:
    """Return the approximate size of a backbone's weights; the file also contains names."""
    return BYTES_PER_PARAMETER * BACKBONE_SIZES[name].parameters


def _row(file_name: str, place: str, checksum: str | None, licence: str) -> Release:
    """Return a row; `place` is a URL, ending in a slash if the file there has the same name."""
    return Release(file_name, place + file_name if place.endswith("/") else place, checksum, licence)


# fmt: off
RELEASES: dict[str, Release] = {
    "MobileNet": _row("mobilenet_1_0_224_tf_no_top.h5", _KERAS + "mobilenet/", None, _APACHE),
    "MobileNetV2": _row(
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", _KERAS + "mobilenet_v2/",
        None, _APACHE),
    "MobileNetV3Small": _row(
        "weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5", _KERAS + "mobilenet_v3/",
        "d3e8ec802a04aa4fc771ee12a9a9b836", _SLIM),
    "MobileNetV3Large": _row(
        "weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5", _KERAS + "mobilenet_v3/",
        "07fb09a5933dd0c8eaafa16978110389", _SLIM),
    "NASNetMobile": _row(
        "nasnet_mobile_no_top.h5", _KERAS + "nasnet/NASNet-mobile-no-top.h5",
        "1ed92395b5b598bdda52abe5c0dbfd63", _APACHE),
    "NASNetLarge": _row(
        "nasnet_large_no_top.h5", _KERAS + "nasnet/NASNet-large-no-top.h5",
        "d81d89dc07e6e56530c4e77faddd61b5", _APACHE),
    "DenseNet121": _row(
        "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5", _KERAS + "densenet/",
        "30ee3e1110167f948a6b9946edeeb738", _BSD),
    "DenseNet169": _row(
        "densenet169_weights_tf_dim_ordering_tf_kernels_notop.h5", _KERAS + "densenet/",
        "b8c4d4c20dd625c148057b9ff1c1176b", _BSD),
    "DenseNet201": _row(
        "densenet201_weights_tf_dim_ordering_tf_kernels_notop.h5", _KERAS + "densenet/",
        "c13680b51ded0fb44dff2d8f86ac8bb1", _BSD),
    "EfficientNetB0": _row("efficientnetb0_notop.h5", _EFFICIENTNET, "50bc09e76180e00e4465e1a485ddc09d", _TPU),
    "EfficientNetB1": _row("efficientnetb1_notop.h5", _EFFICIENTNET, "74c4e6b3e1f6a1eea24c589628592432", _TPU),
    "EfficientNetB2": _row("efficientnetb2_notop.h5", _EFFICIENTNET, "111f8e2ac8aa800a7a99e3239f7bfb39", _TPU),
    "EfficientNetB3": _row("efficientnetb3_notop.h5", _EFFICIENTNET, "af6d107764bb5b1abb91932881670226", _TPU),
    "EfficientNetB4": _row("efficientnetb4_notop.h5", _EFFICIENTNET, "ebc24e6d6c33eaebbd558eafbeedf1ba", _TPU),
    "EfficientNetB5": _row("efficientnetb5_notop.h5", _EFFICIENTNET, "38879255a25d3c92d5e44e04ae6cec6f", _TPU),
    "EfficientNetB6": _row("efficientnetb6_notop.h5", _EFFICIENTNET, "9ecce42647a20130c1f39a5d4cb75743", _TPU),
    "EfficientNetB7": _row("efficientnetb7_notop.h5", _EFFICIENTNET, "cbcfe4450ddf6f3ad90b1b398090fe4a", _TPU),
    "EfficientNetV2B0": _row(
        "efficientnetv2-b0_notop.h5", _KERAS + "efficientnet_v2/",
        "893217f2bb855e2983157299931e43ff", _AUTOML),
    "EfficientNetV2B1": _row(
        "efficientnetv2-b1_notop.h5", _KERAS + "efficientnet_v2/",
        "0e80663031ca32d657f9caa404b6ec37", _AUTOML),
    "EfficientNetV2B2": _row(
        "efficientnetv2-b2_notop.h5", _KERAS + "efficientnet_v2/",
        "1dfe2e7a5d45b6632553a8961ea609eb", _AUTOML),
    "EfficientNetV2B3": _row(
        "efficientnetv2-b3_notop.h5", _KERAS + "efficientnet_v2/",
        "f6abf7b5849ac99a89b50dd3fd532856", _AUTOML),
    "EfficientNetV2S": _row(
        "efficientnetv2-s_notop.h5", _KERAS + "efficientnet_v2/",
        "af0682fb74e8c54910f2d4393339c070", _AUTOML),
    "EfficientNetV2M": _row(
        "efficientnetv2-m_notop.h5", _KERAS + "efficientnet_v2/",
        "1b8dc055df72dde80d614482840fe342", _AUTOML),
    "EfficientNetV2L": _row(
        "efficientnetv2-l_notop.h5", _KERAS + "efficientnet_v2/",
        "b0b66b5c863aef5b46e8608fe1711615", _AUTOML),
    "ConvNeXtTiny": _row(
        "convnext_tiny_notop.h5", _KERAS + "convnext/",
        "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1", _CONVNEXT),
    "ConvNeXtSmall": _row(
        "convnext_small_notop.h5", _KERAS + "convnext/",
        "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab", _CONVNEXT),
    "ConvNeXtBase": _row(
        "convnext_base_notop.h5", _KERAS + "convnext/",
        "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45", _CONVNEXT),
    "ConvNeXtLarge": _row(
        "convnext_large_notop.h5", _KERAS + "convnext/",
        "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd", _CONVNEXT),
    "ConvNeXtXLarge": _row(
        "convnext_xlarge_notop.h5", _KERAS + "convnext/",
        "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05", _CONVNEXT),
    "ResNet50": _row(
        "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5", _KERAS + "resnet/",
        "4d473c1dd8becc155b73f8504c6f6626", _MIT),
    "ResNet101": _row(
        "resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5", _KERAS + "resnet/",
        "88cf7a10940856eca736dc7b7e228a21", _MIT),
    "ResNet152": _row(
        "resnet152_weights_tf_dim_ordering_tf_kernels_notop.h5", _KERAS + "resnet/",
        "ee4c566cf9a93f14d82f913c2dc6dd0c", _MIT),
    "ResNet50V2": _row(
        "resnet50v2_weights_tf_dim_ordering_tf_kernels_notop.h5", _KERAS + "resnet/",
        "fac2f116257151a9d068a22e544a4917", _BSD),
    "ResNet101V2": _row(
        "resnet101v2_weights_tf_dim_ordering_tf_kernels_notop.h5", _KERAS + "resnet/",
        "c0ed64b8031c3730f411d2eb4eea35b5", _BSD),
    "ResNet152V2": _row(
        "resnet152v2_weights_tf_dim_ordering_tf_kernels_notop.h5", _KERAS + "resnet/",
        "ed17cf2e0169df9d443503ef94b23b33", _BSD),
    "InceptionV3": _row(
        "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5", _KERAS + "inception_v3/",
        "bcbd6486424b2319ff4ef7d526e38f63", _APACHE),
    "InceptionResNetV2": _row(
        "inception_resnet_v2_weights_tf_dim_ordering_tf_kernels_notop.h5", _KERAS + "inception_resnet_v2/",
        "d19885ff4a710c122648d3b5c3b684e4", _APACHE),
    "Xception": _row(
        "xception_weights_tf_dim_ordering_tf_kernels_notop.h5", _KERAS + "xception/",
        "b0042744bf5b25fce3cb969f33bebb97", _MIT),
    "VGG16": _row(
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5", _KERAS + "vgg16/",
        "6d6bbae143d832006294945121d1f1fc", _CC_BY),
    "VGG19": _row(
        "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5", _KERAS + "vgg19/",
        "253f8cb515780f3b799900260a226db6", _CC_BY),
}
