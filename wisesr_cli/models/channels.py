"""Adapts backbones to pixels of other channels than RGB: their first convolution, and the scaling before it.

A backbone is built, and its weights loaded, for RGB; here it gets a new first convolution. RGB weights are adapted by
the usual rule (that of timm): one channel gets the sum over red, green and blue, which for grey pixels gives exactly
what RGB weights give for grey repeated three times; each of N channels gets their mean times 3 / N, so that equal
channels give what grey gives. Random weights are drawn again, as equal ones would not distinguish the bands.

Pretrained layers expect the statistics of photos. Each channel is therefore mapped, by its own mean and spread over the
training images, to the mean and spread of grey ImageNet photos. Then follows the RGB backbone's scaling of pixels,
averaged over its colours, whether its layers do it or a scaling before them. A single channel of grey photos hardly
changes; an X-ray, darker and flatter than any photo, becomes like one.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from wisesr_cli.errors import RunError
from wisesr_cli.images.preparation import Channels
from wisesr_cli.models.backbones import PHOTO_MEAN, PHOTO_SPREAD
from wisesr_cli.models.rebuilding import Call, Rebuilt
from wisesr_cli.models.scaling import ARITHMETIC, SCALING, Scaling, after_scaling
from wisesr_cli.text import counted, on_one_line

LEAST_SPREAD = 1.0  # of 255: a nearly constant channel is not amplified


class _WithChannels(Rebuilt):
    """Copies of a backbone's layers, without the scaling of RGB, with a first convolution for other channels."""

    keeps_kernel = True

    def _call(self, layer: Any, inputs: tuple[Any, ...], options: dict[str, Any], precision: str) -> Any:
        is_first = not any(call.layer.weights for call in self.calls if hasattr(call.layer, "weights"))
        if is_first and type(layer).__name__ in SCALING:
            return inputs[0]
        if is_first and type(layer).__name__ in ARITHMETIC:
            raise RunError(f"its pixels go through '{layer.name}', which is for RGB")
        if not isinstance(layer, keras.layers.Conv2D) or inputs[0].shape[-1] == layer.kernel.shape[-2] * layer.groups:
            return super()._call(layer, inputs, options, precision)
        copy = self._copy(layer, precision)
        output = copy(*inputs)
        if self.keeps_kernel:
            kernel, *bias = layer.get_weights()
            copy.set_weights([adapted_kernel(kernel, inputs[0].shape[-1]), *bias])
        self.calls.append(Call(copy, tuple(inputs), output))
        return output


def with_channels(backbone: Any, channels: int, *, keeps_kernel: bool) -> Any:
    """Return an RGB backbone adapted to pixels of other channels, without its inner scaling.

    `keeps_kernel`: whether the first convolution has the RGB weights, adapted, or new random ones. Raises `RunError` if
    the backbone does not begin with a convolution of pixels.
    """
    height, width = backbone.inputs[0].shape[1:3]
    rebuilt = _WithChannels(keras.Input((height, width, channels), name="scaled_pixels"))
    rebuilt.keeps_kernel = keeps_kernel
    try:
        output = rebuilt.run(backbone, rebuilt.pixels, keras.config.dtype_policy().name)
    except (RunError, ValueError) as error:  # from Keras, if another layer takes the pixels
        raise RunError(
            f"the backbone does not accept {counted(channels, 'channel')} in place of RGB: {on_one_line(error)}"
        ) from None
    return rebuilt.model_up_to(output, backbone.name)


def adapted_kernel(kernel: NDArray[Any], channels: int) -> NDArray[Any]:
    """Adapt the kernel of an RGB convolution, (height, width, 3, filters), to other channels."""
    together = kernel.sum(axis=-2, keepdims=True)
    return np.asarray(np.repeat(together / channels, channels, axis=-2), kernel.dtype)


def channel_scaling(before: Scaling, backbone: Any, channels: Channels) -> Scaling:
    """Return the scaling of channels before an adapted backbone; `backbone` is the original one for RGB.

    `before` is the scaling of RGB pixels before it. Without statistics, pixels are assumed to have those of photos.
    """
    black, white = after_scaling(before.name, backbone)[:2].astype(np.float64)
    factor, offset = float((white - black).mean()) / 255.0, float(black.mean())
    means, spreads = np.array(channels.statistics or [(PHOTO_MEAN, PHOTO_SPREAD)] * channels.count).T
    gains = PHOTO_SPREAD / np.maximum(spreads, LEAST_SPREAD)
    reason = "mean and spread of each channel" if channels.statistics else before.reason
    factors, offsets = gains * factor, (PHOTO_MEAN - means * gains) * factor + offset
    return Scaling("measured", reason, tuple(factors.tolist()), tuple(offsets.tolist()))
