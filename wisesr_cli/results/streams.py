"""The records of commands for any number of images: `predict`, `embed` and `explain`. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from wisesr_cli.results.records import PlainJson


@dataclass(frozen=True)
class ScoredLabel:
    """A class name and the probability given to it."""

    label: str
    score: float


@dataclass(frozen=True)
class Prediction(PlainJson):
    """The labels of one image, best first, or the error of reading it."""

    _optional = ("labels", "note", "probabilities")
    path: str
    label: str | None
    score: float | None
    top: tuple[ScoredLabel, ...] = ()
    error: str | None = None
    margin: float | None = None  # the best probability minus the second best; if multilabel, to the nearest threshold
    entropy: float | None = None  # of the probabilities, in nats; 0 if one class has all
    labels: tuple[str, ...] | None = None  # with a coverage: its set, best first; if multilabel: all given labels
    note: str | None = None  # what is wrong with an image that was labelled anyway
    probabilities: dict[str, float] | None = None  # of every class, if requested

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr predict --format json`; there are many records, and `asdict` copies slowly."""
        fields = {**vars(self), "top": tuple(dict(vars(scored)) for scored in self.top)}
        return {name: value for name, value in fields.items() if value is not None or name not in self._optional}


@dataclass(frozen=True)
class Embedding(PlainJson):
    """The feature vector of one image, float32 numbers, or the error of reading it."""

    path: str
    vector: tuple[float, ...] | None
    error: str | None = None


@dataclass(frozen=True)
class Contribution:
    """The contribution of every feature map position to one logit; `sum` + `bias` equals `logit`."""

    label: str
    logit: float
    bias: float
    map: tuple[tuple[float, ...], ...]  # of the height and width of the feature map
    sum: float

    def minus(self, other: Contribution) -> Contribution:
        """Return the contribution to the difference of the logits of two classes."""
        pairs = (zip(mine, theirs, strict=True) for mine, theirs in zip(self.map, other.map, strict=True))
        less = tuple(tuple(a - b for a, b in row) for row in pairs)
        label, logit, bias = f"{self.label} - {other.label}", self.logit - other.logit, self.bias - other.bias
        return Contribution(label, logit, bias, less, self.sum - other.sum)


@dataclass(frozen=True)
class Explanation:
    """The explanation of one image's label, or the error of reading it."""

    path: str
    predicted: Contribution | None = None  # to the largest logit
    runner_up: Contribution | None = None  # to the second largest
    score: float | None = None  # the probability of the predicted class
    asked: tuple[Contribution, ...] = ()  # to the logits of the requested classes, in their order
    error: str | None = None
    scores: dict[str, float] | None = None  # if multilabel, the probability of each label here

    @property
    def decision(self) -> Contribution | None:
        """The contribution to the predicted logit minus that of the runner-up."""
        return self.predicted.minus(self.runner_up) if self.predicted and self.runner_up else None

    def to_json(self) -> list[dict[str, Any]]:
        """Return the rows of `wisesr explain --format json`: the requested classes, else the predicted one."""
        shown = self.asked or ((self.predicted,) if self.predicted else ())
        return [{"path": self.path, **asdict(row)} for row in shown]
