"""Finds the file that Keras downloads for the ImageNet weights of a backbone; `models/released.py` repeats it.

`python tests/support/released_weights.py` prints the rows of that table, which a test compares with these findings.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

from wisesr_cli.machine import keras_start
from wisesr_cli.model_files.loading import build_without_values
from wisesr_cli.models.backbones import BACKBONES


class Asked(Exception):  # noqa: N818  (stops the build of a model as soon as the file is known)
    """Raised when Keras asks for a file."""


def asked_for(name: str) -> dict[str, Any]:
    """Return what Keras passes to `get_file` for a backbone without its head."""
    import keras

    side = BACKBONES[name].minimum_size
    application = getattr(keras.applications, name)
    found: dict[str, Any] = {}

    def get_file(fname: str, origin: str, **options: Any) -> None:
        found.update(file_name=fname, url=origin, checksum=options.get("file_hash"), folder=options["cache_subdir"])
        raise Asked

    with mock.patch("keras.src.utils.file_utils.get_file", get_file):
        try:
            build_without_values(
                lambda: application(include_top=False, weights="imagenet", input_shape=(side, side, 3))
            )
        except Asked:
            return found
    raise AssertionError(f"Keras asked for no file of {name}")


def main() -> None:
    keras_start.start("cpu")
    for name, row in BACKBONES.items():
        if not row.from_scratch:
            print(f"    {name!r}: {asked_for(name)},", flush=True)


if __name__ == "__main__":
    main()
