"""The content of a report.html as frozen records: gathered by `content`, rendered by `page`.

Texts are not escaped yet; the page does that. Images are identified by their position among the evaluation's answers.
Standard library and the records of `results` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wisesr_cli.results.evaluation import Evaluation, Verdict
from wisesr_cli.results.streams import Contribution
from wisesr_cli.results.training import EpochResult


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
        """Whether the top class is the true one."""
        return self.truth == self.predicted


@dataclass(frozen=True)
class Thumbnail:
    """A small picture: an encoded file, and its display size in pixels."""

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
    """An image shown in detail: the answer, the picture, and the contribution maps."""

    example: Example
    thumbnail: Thumbnail | None
    predicted: TintedMap | None = None
    difference: TintedMap | None = None  # predicted minus true class, or minus the runner-up if the answer is right


@dataclass(frozen=True)
class DataTable:
    """The image counts of every class, in columns for the run's splits and for the evaluated folder.

    `evaluated` is the column of the evaluated images.
    """

    columns: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]  # (columns, classes)
    evaluated: str


@dataclass(frozen=True)
class ReportContent:
    """Everything that a report.html shows.

    `listed` are the examples that cells of the confusion matrix list; `thumbnails` has pictures of those without a
    card. `facts` are rows of name and text; `cautions` state the limits of the figures; `left_out` says what is missing
    and why.
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
    statement: str  # what is exact in the maps; empty without maps
    listed: tuple[Example, ...]
    thumbnails: Mapping[int, Thumbnail]
    history: tuple[EpochResult, ...]
    best_epoch: int | None
    config: str
    environment: str
