"""The gates of `--fail-under`: a metric and its minimum, or for losses its maximum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from wisesr_cli import errors, text
from wisesr_cli.evaluation.metrics import METRICS
from wisesr_cli.evaluation.multilabel import MULTILABEL_METRICS
from wisesr_cli.results.evaluation import Metrics, MultilabelMetrics

ALL = MULTILABEL_METRICS | METRICS  # metrics of the same name have the same direction
Gate: TypeAlias = tuple[str, float]


def parse_gate(argument: str) -> Gate:
    """Return the metric and the threshold of a `--fail-under` argument such as `top1_accuracy=0.9`.

    Raises `errors.UsageError` for an unknown metric and for a threshold that is not a number or that no model can meet.
    """
    name, equals, number = (part.strip() for part in argument.partition("="))
    where = f"--fail-under {text.visible(argument)}"
    if name not in ALL:
        hint = text.nearest(name, ALL)
        others = text.joined(other for other in MULTILABEL_METRICS if other not in METRICS)
        raise errors.UsageError(
            f"{where}: no metric '{text.visible(name)}'.{hint} Choices: {text.joined(METRICS)}; where images have "
            f"several labels also {others}"
        )
    try:
        threshold = float(number)
    except ValueError:
        threshold = math.nan
    if not equals or not math.isfinite(threshold):
        raise errors.UsageError(f"{where}: give a number, for example --fail-under {name}=0.9")
    if threshold > 1 and ALL[name].better == "higher":
        raise errors.UsageError(f"{where}: {name} is a fraction and never above 1; 90 % is 0.9")
    if threshold < 0 and ALL[name].better == "lower":
        raise errors.UsageError(f"{where}: {name} is never below 0")
    return name, threshold


def check_gates(metrics: Metrics | MultilabelMetrics | None, gates: Sequence[Gate]) -> None:
    """Raise `errors.GateMissed`, naming every gate that `metrics` miss; an undefined metric misses its gate."""
    if metrics is None:
        if gates:
            raise errors.GateMissed("--fail-under: nothing was evaluated: no validation split, or no finished epoch")
        return
    missed = []
    for name, threshold in gates:
        value, higher = getattr(metrics, name, None), ALL[name].better == "higher"
        if value is None or not (value >= threshold if higher else value <= threshold):
            shown = "not defined" if value is None else f"{value:.6g}"
            missed.append(f"{name} is {shown}, must be {'at least' if higher else 'at most'} {threshold:g}")
    if missed:
        raise errors.GateMissed(f"missed {text.counted(len(missed), 'gate')}: " + "; ".join(missed))
