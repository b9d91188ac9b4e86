"""The table of releases matches what the installed Keras downloads."""

from __future__ import annotations

import pytest
from released_weights import asked_for

from wisesr_cli.models.backbones import BACKBONES
from wisesr_cli.models.released import RELEASES, size_bytes

QUICK = ("MobileNet", "VGG16", "ResNet50")  # the others take long to build


def test_every_backbone_not_trained_from_scratch_has_a_release() -> None:
    assert list(RELEASES) == [name for name, row in BACKBONES.items() if not row.from_scratch]
    assert all(row.url.startswith("https://") and row.licence for row in RELEASES.values())


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in RELEASES])
def test_the_release_is_the_file_that_keras_downloads(name: str) -> None:
    row = RELEASES[name]
    expected = {"file_name": row.file_name, "url": row.url, "checksum": row.checksum, "folder": "models"}
    assert asked_for(name) == expected


def test_a_release_takes_four_bytes_per_parameter() -> None:
    assert size_bytes("MobileNet") == 4 * 3_228_864
