"""The real images that exported models are compared, calibrated and evaluated on. No Keras."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from wisesr_cli.data.index import Labels
from wisesr_cli.data.pixels import DecodedImages, open_pixels
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.errors import ImageError, UsageError
from wisesr_cli.evaluation.evaluate import Subject, choose_subject
from wisesr_cli.exporting.agreement import Pixels, sample
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.listening import Listener
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.run.located import Located
from wisesr_cli.text import visible

COMPARED = 64  # images from all over the split
CALIBRATED = 200  # images that int8 activations are measured on
FEW_CALIBRATED = 100
SPLITS = ("validation", "test", "train")  # the first one that a run has is used


@dataclass(frozen=True)
class ExportImages:
    """Labelled images, and how the run reads images."""

    subject: Subject
    settings: DataConfig
    listener: Listener

    @property
    def title(self) -> str:
        """What these images are called in messages: `the validation split`, or `the folder photos`."""
        return f"the {self.subject.name} split" if self.subject.is_own else f"the folder {self.subject.name}"

    def compared(self, info: ModelInfo) -> Pixels:
        """Return images from all over the split, uint8 (examples, height, width, channels)."""
        paths = self.subject.index.absolute(self.subject.split)
        return self._decoded(sample(paths, COMPARED), info)

    def originals(
        self, info: ModelInfo, *, decoded: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Pixels, Pixels]]:
        """Yield the same images, where readable, each at its own size and as the run reads it.

        Both are uint8 (height, width, channels); `decoded` is called once both are decoded.
        """
        for path in sample(self.subject.index.absolute(self.subject.split), COMPARED):
            with suppress(ImageError):
                pair = self._decode(path, None, info), self._decode(path, info.image_size, info)
                decoded()
                yield pair

    def _decode(self, path: str, image_size: tuple[int, int] | None, info: ModelInfo) -> Pixels:
        limit = self.settings.pixel_limit
        return decode_image(path, image_size=image_size, preparation=info.preparation, pixel_limit=limit)

    def calibration(self, info: ModelInfo) -> Pixels:
        """Return a fixed sample of training images or, if there are none, of the others."""
        splits = self.subject.index.splits
        split = "train" if self.subject.is_own and "train" in splits else self.subject.split
        paths = self.subject.index.absolute(split)
        chosen = np.random.default_rng(0).permutation(len(paths))[:CALIBRATED]
        if len(chosen) < FEW_CALIBRATED:
            self.listener.warn(
                f"int8 is calibrated on only {len(chosen):,} images; {FEW_CALIBRATED} or more are better"
            )
        if split != "train":
            self.listener.note(f"int8 is calibrated on images of {self.title}, on which it is also evaluated")
        return self._decoded([paths[position] for position in sorted(chosen.tolist())], info)

    def labelled(self, info: ModelInfo) -> tuple[DecodedImages, Labels]:
        """Return all images of the split, which the caller must close, and their labels as in a `Split`."""
        pixels = self._open(self.subject.index.absolute(self.subject.split), info)
        return pixels, self.subject.index.splits[self.subject.split].labels[pixels.kept]

    def _decoded(self, paths: list[str], info: ModelInfo) -> Pixels:
        with closing(self._open(paths, info)) as pixels:
            return pixels.batch(np.arange(len(pixels)))

    def _open(self, paths: list[str], info: ModelInfo) -> DecodedImages:
        return open_pixels(
            paths,
            image_size=info.image_size,
            preparation=info.preparation,
            cache="none",
            on_error="skip",  # training reported or skipped them
            pixel_limit=self.settings.pixel_limit,
            listener=self.listener,
        )


def choose_images(run: Located, data: str | Path | None, listener: Listener) -> ExportImages:
    """Return the images of a folder, or of a run's first split among `SPLITS`.

    Raises:
        UsageError: a lone model file without a folder, or a run that has no images.
        RunError: the run's images are no longer where they were.
        DataError: the folder cannot be used.
    """
    settings = run.data
    choose = partial(
        choose_subject,
        run,
        class_names=run.info.class_names,
        on_error="skip",
        pixel_limit=settings.pixel_limit,
        channels=run.info.preparation.channels,
        is_multilabel=run.info.is_multilabel,
        listener=listener,
    )
    if data is not None:
        return ExportImages(choose(split=None, data=data), settings, listener)
    if not run.is_complete:
        raise UsageError(
            f"{visible(run.given)}: a model file without its run directory has no images to compare exports on; "
            "give --data FOLDER, with a folder per class"
        )
    for split in SPLITS:
        with suppress(UsageError):  # the run lacks this split
            return ExportImages(choose(split=split, data=None), settings, listener)
    raise UsageError(f"{visible(run.given)}: the run has no images; give --data FOLDER")
