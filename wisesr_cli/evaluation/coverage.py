"""Sets of labels that contain the true class at a requested rate, and the score below which no single answer is given.

Split conformal prediction with least ambiguous sets (Sadinle, Lei and Wasserman 2019, "LAC"): a set contains every
class whose score reaches a threshold, which the true class reaches in all but a few validation images. For a given
coverage, this method has the smallest sets on average, and nothing to tune; with RAPS, the size of a set follows the
difficulty of its image more closely, but sets are larger. The best class is always in the set, so no set is empty.

The guarantee holds on average over images drawn like the validation images, not for each class or image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wisesr_cli.errors import RunError, UsageError
from wisesr_cli.evaluation.metrics import Answers, Integers, row_blocks, wilson_interval
from wisesr_cli.evaluation.probabilities import Doubles, Floats, softmax
from wisesr_cli.machine.files import sha256
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.results.evaluation import CoverageMetrics
from wisesr_cli.run.located import Located
from wisesr_cli.run.names import CALIBRATION
from wisesr_cli.run.records import read_json, write_json
from wisesr_cli.run.run import Run
from wisesr_cli.text import visible

NO_COVERAGE = "it promises sets that contain the one true label, and images here may have several labels or none"
_RULE = "the sets contain the true class of that share of images, if these are drawn like the validation images"


@dataclass(frozen=True)
class Coverage:
    """The score thresholds for a coverage in 0..1.

    `set_score`: the lowest score of a class in a set. `answer_score`: the lowest score of a single answer. At or above
    it, `right` of the `answered` validation images were right, which is a share at least as large as the coverage; None
    if no score achieves that.
    """

    coverage: float
    examples: int  # validation images
    set_score: float
    answer_score: float | None
    answered: int
    right: int

    def labels(self, probabilities: Doubles) -> list[int]:
        """Return the classes in the set of an image, best first, from its probabilities (classes,)."""
        order: list[int] = np.argsort(-probabilities, kind="stable").tolist()
        return order[: max(1, int(np.count_nonzero(probabilities >= self.set_score)))]

    def is_answer(self, score: float) -> bool:
        """Return whether a best class with this score may be given as the single answer."""
        return self.answer_score is not None and score >= self.answer_score

    def __str__(self) -> str:
        """Describe the coverage in words."""
        share = f"{100 * self.coverage:g} %"
        if self.answer_score is None:
            single = f"no score is right for {share} of validation images: every single answer is withheld"
        else:
            single = (
                f"single answers below score {self.answer_score:.3f} are withheld, at or above it {self.right:,} of "
                f"{self.answered:,} validation images were right"
            )
        return f"coverage {share}, from {self.examples:,} validation images: {_RULE}; {single}"


def write_scores(run: Run, answers: Answers, info: ModelInfo) -> None:
    """Store the scores of the best model of a run on the validation images, for `coverage_of`."""
    write_json(
        run.path / CALIBRATION,
        {
            "model": sha256(run.best),
            "temperature": info.temperature,
            "truth_scores": answers.truth_scores.tolist(),
            "scores": answers.scores.tolist(),
            "correct": (answers.predicted == answers.labels).tolist(),
        },
    )


def coverage_of(run: Located, coverage: float, *, precision: str, image_size: object) -> Coverage:
    """Return the thresholds for a coverage, from the validation scores of a run's best model.

    Raises:
        UsageError: the coverage is not in 0..1, there are too few validation images for it, or the model is used in
            another precision or at another image size than on them, or gives several labels.
        RunError: the run has no validation scores of this model, or their file is damaged.
    """
    if not 0 < coverage < 1:
        raise UsageError(f"--coverage {coverage:g}: give a fraction above 0 and below 1, for example 0.9")
    if precision != "float32" or image_size is not None:
        raise UsageError("--coverage holds for the scores of training: leave out --precision and --image-size")
    if run.info.is_multilabel:
        raise UsageError(f"--coverage: {NO_COVERAGE}; each label is given at or above its own threshold")
    where = visible(run.given)
    path = run.run.path / CALIBRATION
    if not run.is_complete or not path.is_file():
        raise RunError(
            f"{where}: --coverage needs the scores of validation images ({CALIBRATION}), which training keeps in a run "
            "that has a validation split"
        )
    try:
        record = read_json(path)
        truth_scores, scores = (np.asarray(record[name], np.float64) for name in ("truth_scores", "scores"))
        correct, model = np.asarray(record["correct"], np.bool_), str(record["model"])
        if not len(truth_scores) == len(scores) == len(correct):
            raise ValueError("columns of different lengths")
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{visible(path)}: damaged: {visible(error)}; train with --resume to rewrite it") from None
    if model != sha256(run.model):
        raise RunError(f"{visible(path)}: belongs to another {run.model.name}; train with --resume to rewrite it")
    return thresholds(coverage, truth_scores, scores, correct)


def thresholds(coverage: float, truth_scores: Doubles, scores: Doubles, correct: np.ndarray) -> Coverage:
    """Return the thresholds from the scores of the true and of the best class of validation images (examples,).

    Raises `UsageError` when there are too few images for the coverage.
    """
    examples = len(truth_scores)
    kept = math.ceil((examples + 1) * coverage - 1e-9)  # of n + 1 exchangeable images, rounded up
    if kept > examples:
        fewest = math.ceil(coverage / (1 - coverage) - 1e-9)
        raise UsageError(
            f"--coverage {coverage:g} needs {fewest:,} validation images or more; the run has {examples:,}; allowed: "
            f"values up to {math.floor(1000 * examples / (examples + 1)) / 1000:g}"
        )
    set_score = float(np.sort(truth_scores)[::-1][kept - 1])
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(correct[order])
    is_last = np.append(np.diff(scores[order]) != 0, True)  # equal scores are answered together
    enough = np.flatnonzero(is_last & (right >= coverage * np.arange(1, examples + 1)))
    if not enough.size:
        return Coverage(coverage, examples, set_score, None, 0, 0)
    last = int(enough[-1])
    return Coverage(coverage, examples, set_score, float(scores[order[last]]), last + 1, int(right[last]))


def measure(coverage: Coverage, logits: Floats, labels: Integers, temperature: float) -> CoverageMetrics:
    """Measure a coverage on images with labels (examples,) and logits (examples, classes)."""
    examples = len(labels)
    sizes, covered = np.empty(examples, np.int64), np.empty(examples, np.bool_)
    scores, correct = np.empty(examples), np.empty(examples, np.bool_)
    for rows in row_blocks(logits):
        probabilities, truth = softmax(logits[rows], temperature), labels[rows]
        every, best = np.arange(len(truth)), probabilities.argmax(axis=1)
        sizes[rows] = np.maximum((probabilities >= coverage.set_score).sum(axis=1), 1)
        correct[rows], scores[rows] = best == truth, probabilities[every, best]
        covered[rows] = (probabilities[every, truth] >= coverage.set_score) | correct[rows]
    is_answer = scores >= (math.inf if coverage.answer_score is None else coverage.answer_score)
    return CoverageMetrics(
        coverage=coverage.coverage,
        validation_examples=coverage.examples,
        set_score=coverage.set_score,
        answer_score=coverage.answer_score,
        covered=float(covered.mean()) if examples else None,
        covered_interval=wilson_interval(int(covered.sum()), examples),
        mean_set_size=float(sizes.mean()) if examples else None,
        single_sets=float((sizes == 1).mean()) if examples else None,
        answered=float(is_answer.mean()) if examples else None,
        answered_accuracy=float(correct[is_answer].mean()) if is_answer.any() else None,
    )
