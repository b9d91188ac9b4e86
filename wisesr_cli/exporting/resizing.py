"""Measures how closely other libraries' resizing matches that of wisesr, for users of exported models.

To add a library: a row in `LIBRARIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from wisesr_cli.exporting.agreement import Agreement, Pixels, RunModel, compare, logits_in_batches
from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.machine import keras_start

Size = tuple[int, int]  # height, width
Resize = Callable[[Pixels, Size], NDArray[Any]]  # an image (height, width, 3) -> pixels 0..255 of that size


@dataclass(frozen=True)
class Library:
    """A library that resizes images: its module, the call that its users write, and a function that makes this call."""

    module: str
    install: str
    call: str
    resize: Resize

    def can_be_imported(self) -> bool:
        """Return whether the library is installed and works."""
        try:
            import_module(self.module)
        except (ImportError, OSError):  # OSError: a shared library below it
            return False
        return True


@dataclass(frozen=True)
class Nearness:
    """How a model's answers to images resized by a call agree with its answers to those resized by wisesr."""

    call: str
    agreement: Agreement


def at_hand() -> list[str]:
    """Return the names of the libraries that an export is measured with; Keras must have been started.

    Not torchvision: importing torch takes seconds, and it resizes Pillow's images with Pillow.
    """
    names = ["Pillow"]
    if keras_start.backend_name() == "tensorflow":  # already loaded
        names.append("TensorFlow")
    if LIBRARIES["OpenCV"].can_be_imported():
        names.append("OpenCV")
    return names


def calls_for(rule: str, libraries: Iterable[str]) -> dict[str, Resize]:
    """Return the calls that resize by a rule: those of all libraries for `squash`, else that of Pillow alone."""
    if rule == "squash":
        return {LIBRARIES[name].call: LIBRARIES[name].resize for name in libraries}
    return {PILLOW[rule].call: PILLOW[rule].resize}


def nearness(
    run: RunModel,
    originals: Iterable[tuple[Pixels, Pixels]],
    size: Size,
    calls: Mapping[str, Resize],
    *,
    multilabel: bool = False,
) -> list[Nearness]:
    """Return a row per call, from pairs of an original image (height, width, 3) and what the run reads of it."""
    read: list[Pixels] = []
    resized: dict[str, list[NDArray[Any]]] = {call: [] for call in calls}
    for whole, expected in originals:  # one at a time: photos may have 50 million pixels
        read.append(expected)
        for call, resize in calls.items():
            resized[call].append(np.asarray(resize(whole, size)))
    exact = logits_in_batches(run, np.stack(read))
    return [
        Nearness(call, compare(exact, logits_in_batches(run, np.stack(images)), multilabel=multilabel))
        for call, images in resized.items()
    ]


def _squash(pixels: Pixels, size: Size) -> Pixels:
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))


def _crop(pixels: Pixels, size: Size) -> Pixels:
    return np.asarray(ImageOps.fit(Image.fromarray(pixels), size[::-1], Image.Resampling.BILINEAR))


def _pad(pixels: Pixels, size: Size) -> Pixels:
    return np.asarray(ImageOps.pad(Image.fromarray(pixels), size[::-1], Image.Resampling.BILINEAR, color=BACKGROUND))


def _tensorflow(pixels: Pixels, size: Size) -> NDArray[Any]:
    return np.asarray(keras_start.load_tensorflow().image.resize(pixels, size, antialias=True))


def _opencv(pixels: Pixels, size: Size) -> NDArray[Any]:
    cv2: Any = import_module("cv2")
    return np.asarray(cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA))


def _torchvision(pixels: Pixels, size: Size) -> NDArray[Any]:
    torch, functional = import_module("torch"), import_module("torchvision.transforms.v2.functional")
    channels_first: Any = torch.from_numpy(np.array(pixels.transpose(2, 0, 1)))
    return np.asarray(functional.resize(channels_first, list(size), antialias=True)).transpose(1, 2, 0)


PILLOW: dict[str, Library] = {
    "squash": Library("PIL", "pip install pillow", "Pillow: image.resize, BILINEAR", _squash),
    "crop": Library("PIL", "pip install pillow", "Pillow: ImageOps.fit, BILINEAR", _crop),
    "pad": Library("PIL", "pip install pillow", "Pillow: ImageOps.pad, BILINEAR", _pad),
}

LIBRARIES: dict[str, Library] = {
    "Pillow": PILLOW["squash"],
    "TensorFlow": Library("tensorflow", "pip install tensorflow", "tf.image.resize, antialias=True", _tensorflow),
    "OpenCV": Library("cv2", "pip install opencv-python-headless", "cv2.resize, INTER_AREA", _opencv),
    "torchvision": Library(
        "torchvision", "pip install torchvision", "torchvision: v2.Resize of a tensor", _torchvision
    ),
}
