"""The records of `wisesr weights`, whose fields are those of its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Origin = Literal["release", "release by its name", "damaged", "not known"]


@dataclass(frozen=True)
class PretrainedWeights:
    """Keras' release of a backbone's ImageNet weights, and the file on this machine, if any, with its origin.

    `megabytes` is the release's approximate size; `checksum` is its SHA-256 or MD5, None if Keras has none.
    """

    backbone: str
    file_name: str
    megabytes: float
    licence: str
    checksum: str | None
    path: str | None
    origin: Origin | None
