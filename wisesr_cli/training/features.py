"""The feature maps of a frozen backbone: computed once, kept in memory or on disk, and used to train the head.

In a phase with a frozen backbone, the head sees a few views of every image in turn: without augmentation the image
itself, with augmentation the images of the first epochs of the phase.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from wisesr_cli.config.schema import Config
from wisesr_cli.config.training import PhaseConfig
from wisesr_cli.data import disk_cache
from wisesr_cli.data.pixels import DecodedImages, Positions, epoch_order
from wisesr_cli.engines.keras import numpy_outputs
from wisesr_cli.errors import MachineError
from wisesr_cli.listening import Listener
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.memory import available_memory_bytes
from wisesr_cli.machine.threads import map_in_batches
from wisesr_cli.models.build import Classifier
from wisesr_cli.text import counted, visible
from wisesr_cli.training.augmentation import build_augmentation, seed_states, seed_variables
from wisesr_cli.training.examples import Examples

Place = Literal["memory", "disk"]
BATCH = 32  # images per step without augmentation, as in `predict`


class AtInference(keras.layers.Layer):
    """Runs a model or a layer in inference mode, including dropout and batch norm, inside a model that is trained.

    Calling the model with `training=False` is not enough: within a graph, Keras replaces it with the graph's own value.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(autocast=False)  # the model's layers cast their inputs
        self.model = model

    def call(self, inputs: Any) -> Any:
        """Return the output of the model."""
        return self.model(inputs, training=False)


class FeatureMaps:
    """The feature maps of images by index, with the interface that `DecodedImages` has for pixels."""

    def __init__(self, shape: disk_cache.Shape, dtype: str, stored: NDArray[Any] | disk_cache.DiskCache) -> None:
        self._shape, self._dtype, self._stored = shape, dtype, stored

    def __len__(self) -> int:
        return self._shape[0]

    @property
    def place(self) -> Place:
        """Where they are kept."""
        return "memory" if isinstance(self._stored, np.ndarray) else "disk"

    def batch(self, indices: Positions) -> NDArray[Any]:
        """Return the feature maps at `indices`, (batch, height, width, channels); may be called from several threads.

        Raises:
            MachineError: the file was cut short.
        """
        if isinstance(self._stored, np.ndarray):
            return self._stored[indices]
        batch = np.empty((len(indices), *self._shape[1:]), self._dtype)
        try:
            self._stored.read(indices, batch)
        except OSError as error:
            reason = error.strerror or "cannot be read"
            raise MachineError(
                f"{visible(str(self._stored.path))}: feature maps can no longer be read: {reason}; remove the file and "
                "continue with --resume, or set train.feature_cache: none"
            ) from error
        return batch


@dataclass(frozen=True)
class _View:
    """Images as seen in one pass; `epoch` is the epoch whose augmentation is drawn, None for no augmentation."""

    title: str
    images: DecodedImages
    epoch: int | None
    key: str


class FrozenFeatures:
    """The feature maps of all views of a phase, and of the validation images.

    Args:
        first_epoch: the first epoch of the phase, from 0.
        device: the device that computes them; others round differently.

    Any other feature maps in `examples.shared_maps` are removed.
    """

    def __init__(
        self,
        config: Config,
        classifier: Classifier,
        examples: Examples,
        phase: PhaseConfig,
        *,
        first_epoch: int,
        device: str,
    ) -> None:
        self.config, self.first_epoch = config, first_epoch
        self.extractor = classifier.extractor
        self._dtype = "float16" if config.train.precision == "mixed_float16" else "float32"  # NumPy has no bfloat16
        pixels, images = augmented_pixels(config, classifier.model.input_shape[1:3], phase)
        draws_any = bool(seed_variables(images_model := keras.Model(pixels, images))) and phase.augment is None
        self._augmentation = images_model if draws_any else None
        self._model_key = _key_of_model(config, self.extractor, device)
        views = min(config.train.augmented_views, phase.epochs) if draws_any else 1
        self._views = [self._view(number, views, examples.train) for number in range(views)]
        self._validation = None
        if examples.validation is not None:
            key = self._key(examples.validation, None)
            self._validation = _View("of the validation images", examples.validation, None, key)
        self._maps: dict[str, FeatureMaps] = {} if examples.shared_maps is None else examples.shared_maps
        wanted = {view.key for view in self._all()}
        for key in self._maps.keys() - wanted:
            del self._maps[key]

    @property
    def validation(self) -> FeatureMaps | None:
        """The feature maps of the validation images."""
        return None if self._validation is None else self._maps[self._validation.key]

    def train(self, epoch: int) -> FeatureMaps:
        """Return the feature maps that an epoch trains on, which must have been computed."""
        return self._maps[self._view_of(epoch).key]

    def has(self, epoch: int) -> bool:
        """Return whether the feature maps of an epoch have been computed."""
        return self._view_of(epoch).key in self._maps

    def start(self, epoch: int, listener: Listener) -> bool:
        """Compute the feature maps for the first epoch to train; return whether there is room for all views.

        Raises:
            DataError: an image can no longer be read.
        """
        self._place = self._room()
        needed = [self._view_of(epoch), *([self._validation] if self._validation else [])]
        if self._place is not None and all(self._compute(view, listener) for view in needed):
            return True
        size = sum(math.prod(self._shape(view)) for view in self._all()) * np.dtype(self._dtype).itemsize
        listener.warn(
            f"no room to keep feature maps ({size / 1e9:.1f} GB): every epoch runs the frozen backbone; a "
            "smaller train.augmented_views needs less"
        )
        return False

    def compute(self, epoch: int, listener: Listener) -> None:
        """Compute the feature maps of an epoch; if there is no room left, reuse the views computed so far."""
        view = self._view_of(epoch)
        if not self._compute(view, listener):
            others = [other for other in self._views if other.key in self._maps]
            listener.warn(f"no room for feature maps {view.title}: continuing with {counted(len(others), 'view')}")
            self._views = others

    def _view_of(self, epoch: int) -> _View:
        return self._views[(epoch - self.first_epoch) % len(self._views)]

    def _view(self, number: int, views: int, images: DecodedImages) -> _View:
        epoch = self.first_epoch + number if self._augmentation is not None else None
        title = f"of the training images, view {number + 1} of {views}" if views > 1 else "of the training images"
        return _View(title, images, epoch, self._key(images, epoch))

    def _all(self) -> list[_View]:
        return [*self._views, *([self._validation] if self._validation else [])]

    def _shape(self, view: _View) -> disk_cache.Shape:
        height, width, channels = self.extractor.output_shape[1:]
        return len(view.images), height, width, channels

    def _room(self) -> Place | None:
        """Return where all feature maps not yet in memory fit, by the same rule as for decoded images, or None."""
        images = sum(len(view.images) for view in self._all() if view.key not in self._maps)
        shape = (images, *self.extractor.output_shape[1:])
        if math.prod(shape) * np.dtype(self._dtype).itemsize <= available_memory_bytes() // 4:
            return "memory"
        return "disk" if disk_cache.has_room(shape, self._dtype) else None

    def _compute(self, view: _View, listener: Listener) -> bool:
        """Find or compute the feature maps of a view; return whether they could be kept."""
        if view.key in self._maps:
            return True
        found: NDArray[Any] | disk_cache.DiskCache | None = self._on_disk(view)
        if found is None:
            try:
                found = (
                    self._into_memory(view, listener) if self._place == "memory" else self._onto_disk(view, listener)
                )
            except (OSError, MemoryError):
                return False
        if found is not None:
            self._maps[view.key] = FeatureMaps(self._shape(view), self._dtype, found)
        return found is not None

    def _on_disk(self, view: _View) -> disk_cache.DiskCache | None:
        found = disk_cache.open_cache(disk_cache.cache_path(view.key, "maps"), self._shape(view), self._dtype)
        return found if found is not None and found.readable.all() else None

    def _into_memory(self, view: _View, listener: Listener) -> NDArray[Any]:
        rows = np.empty(self._shape(view), self._dtype)
        self._extract(view, rows.__setitem__, listener)
        return rows

    def _onto_disk(self, view: _View, listener: Listener) -> disk_cache.DiskCache | None:
        path = disk_cache.cache_path(view.key, "maps")
        with disk_cache.new_cache(path, self._shape(view), self._dtype) as writer:
            self._extract(view, writer.write, listener)
        return self._on_disk(view)

    def _extract(self, view: _View, store: Callable[[int, NDArray[Any]], None], listener: Listener) -> None:
        """Run the images of a view through the backbone, in the batches of training if they are augmented."""
        size, order = BATCH, np.arange(len(view.images))
        if view.epoch is not None:
            size, order = self.config.train.batch_size, self._order(view.images, view.epoch)
            self._draw(view.epoch)
        size = min(size, len(order))
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        with (
            listener.progress(f"computing feature maps {view.title}", len(order)) as progress,
            closing(map_in_batches(view.images.batch, parts, batch_size=1, workers=1)) as batches,
        ):
            for part, [pixels] in zip(parts, batches, strict=True):
                for position, row in zip(part.tolist(), self._maps_of(pixels, size, view.epoch), strict=True):
                    store(position, row.astype(self._dtype, copy=False))
                progress.advance(len(part))

    def _maps_of(self, pixels: NDArray[Any], size: int, epoch: int | None) -> NDArray[Any]:
        """Return the feature maps of at most `size` images; a smaller batch is padded, as each size is compiled."""
        count = len(pixels)
        if epoch is not None and self._augmentation is not None:
            pixels = keras.ops.convert_to_numpy(self._augmentation(pixels, training=True))
        filled = np.concatenate([pixels, np.zeros((size - count, *pixels.shape[1:]), pixels.dtype)])
        return numpy_outputs(self.extractor, filled)[0][:count]

    def _order(self, images: DecodedImages, epoch: int) -> Positions:
        return epoch_order(len(images), seed=self.config.seed, epoch=epoch)

    def _draw(self, epoch: int) -> None:
        """Set the random state of augmentation to the start of an epoch; its generators come first in every model."""
        variables = seed_variables(self._augmentation)
        for variable, state in zip(variables, seed_states(self.config.seed, epoch, len(variables)), strict=True):
            variable.assign(state.astype(variable.dtype))

    def _key(self, images: DecodedImages, epoch: int | None) -> str:
        """Return a hash of everything that determines the feature maps of images."""
        digest = hashlib.blake2b(self._model_key, digest_size=16)
        digest.update(images.key.encode())
        digest.update(images.kept.tobytes())
        if epoch is not None:
            train = self.config.train
            digest.update(f"{self.config.augmentation} {self.config.seed} {epoch} {train.batch_size}".encode())
            digest.update(self._order(images, epoch).tobytes())
        return digest.hexdigest()


def augmented_pixels(config: Config, image_size: tuple[int, int], phase: PhaseConfig | None = None) -> tuple[Any, Any]:
    """Return symbolic raw pixels, uint8 (batch, height, width, channels), and the augmented pixels, float32.

    A phase without augmentation has the same layers in inference mode, so that all phases have the same seed
    generators.
    """
    is_plain = phase is not None and phase.augment == "none"
    pixels = keras.Input((*image_size, config.data.channels), dtype="uint8", name="raw_pixels")
    images = keras.layers.Rescaling(1.0, dtype="float32", name="to_float")(pixels)
    for layer in build_augmentation(config.augmentation, seed=config.seed):
        images = (AtInference(layer) if is_plain else layer)(images)
    return pixels, images


def _key_of_model(config: Config, extractor: Any, device: str) -> bytes:
    """Return a hash of layers, scaling, image size, weights, precision, backend, versions and device."""
    digest = hashlib.blake2b(digest_size=16)
    layers = re.sub(r'_[0-9]+(?=")', "", extractor.to_json())  # Keras' counters depend on what was built before
    versions = sorted(keras_start.package_versions().items())
    digest.update(f"{layers} {config.train.precision} {keras_start.backend_name()} {versions} {device}".encode())
    for weight in extractor.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    return digest.digest()
