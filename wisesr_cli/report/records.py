"""What a report.html shows, as frozen records: gathered by `content`, turned into HTML by `page`.

Texts are as they came; the page makes them visible and escapes them. Images are named by their position among the
answers of the evaluation. Standard library and the records of `results` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wisesr_cli.results import Contribution, EpochResult, Evaluation, Verdict


@dataclass(frozen=True)
class Example:
    """The answer to one image: labels are class indices, scores are probabilities."""

    position: int
    path: str
    truth: int
    predicted: int
    score: float
    truth_score: float

    @property
    def is_right(self) -> bool:
        """Whether the best class is the true one."""
        return self.truth == self.predicted


@dataclass(frozen=True)
class Thumbnail:
    """A small picture: an encoded file, and the size in pixels at which it is shown."""

    media_type: str
    content: bytes
    width: int
    height: int


@dataclass(frozen=True)
class TintedMap:
    """A contribution map as a PNG with one pixel per position; `scale` is the value drawn at full strength."""

    contribution: Contribution
    png: bytes
    scale: float


@dataclass(frozen=True)
class Card:
    """One image that is looked at closely: what was answered, the picture, and the maps of what decided."""

    example: Example
    thumbnail: Thumbnail | None
    predicted: TintedMap | None = None
    difference: TintedMap | None = None  # predicted less true class, or less the runner-up where the answer is right


@dataclass(frozen=True)
class DataTable:
    """The images of every class, in columns for the splits of the run, and of the folder that was judged on.

    `judged` is the column of the images that were judged on.
    """

    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]  # (columns, classes)
    judged: str


@dataclass(frozen=True)
class ReportContent:
    """Everything that a report.html shows.

    `listed` are the examples that cells of the confusion matrix name; `thumbnails` those of them that have a picture
    and no card. `facts` are rows of a name and a text; `cautions` say what the figures do not show; `left_out` what is
    missing here and why.
    """

    title: str
    evaluation: Evaluation
    facts: tuple[tuple[str, str], ...]
    verdict: tuple[Verdict, ...]
    cautions: tuple[str, ...]
    left_out: tuple[str, ...]
    data: DataTable
    mistakes: tuple[Card, ...]
    right: tuple[Card, ...]
    statement: str  # what the maps say exactly, and what not; empty without maps
    listed: tuple[Example, ...]
    thumbnails: Mapping[int, Thumbnail]
    history: tuple[EpochResult, ...]
    best_epoch: int | None
    config: str
    environment: str
