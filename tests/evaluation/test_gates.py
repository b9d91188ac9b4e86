"""A gate is met, missed or invalid, and the message says which."""

from __future__ import annotations

import numpy as np
import pytest

from wisesr_cli.errors import GateMissed, UsageError
from wisesr_cli.evaluation.gates import check_gates, parse_gate
from wisesr_cli.evaluation.metrics import METRICS, compute_metrics


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_can_be_a_gate_that_is_met_or_missed(name: str) -> None:
    draws = np.random.default_rng(2)
    found = compute_metrics(draws.normal(size=(90, 7)), draws.integers(0, 7, 90), list("abcdefg"))
    value = getattr(found, name)
    assert value > 0
    step = 1e-6 if METRICS[name].better == "higher" else -1e-6
    check_gates(found, [parse_gate(f"{name}={value!r}"), parse_gate(f"{name}={value - step!r}")])
    with pytest.raises(GateMissed, match=name):
        check_gates(found, [parse_gate(f"{name}={value + step!r}")])


def test_a_gate_is_a_metric_and_a_number() -> None:
    assert parse_gate("top1_accuracy=0.9") == ("top1_accuracy", 0.9)
    assert parse_gate(" log_loss = 2.5 ") == ("log_loss", 2.5)


@pytest.mark.parametrize(
    ("gate", "part"),
    [
        ("top1_acuracy=0.9", "Did you mean 'top1_accuracy'?"),
        ("TOP1_ACCURACY=0.9", "Did you mean 'top1_accuracy'?"),
        ("zzz=1", "Choices: top1_accuracy"),
        ("", "Choices: top1_accuracy"),
        ("top1_accuracy", "--fail-under top1_accuracy=0.9"),
        ("top1_accuracy=", "give a number"),
        ("top1_accuracy=high", "give a number"),
        ("top1_accuracy=nan", "give a number"),
        ("top1_accuracy=inf", "give a number"),
        ("top1_accuracy=90", "90 % is 0.9"),
        ("log_loss=-1", "never below 0"),
        ("bad\x1b[31m=1", "bad\\x1b[31m"),
    ],
)
def test_a_nonsensical_gate_is_a_usage_error(gate: str, part: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_gate(gate)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_missed_gates_are_reported_together_with_value_and_bound() -> None:
    found = compute_metrics(np.array([[0.0, 1], [1, 0]]), [0, 0], ["a", "b"])
    with pytest.raises(GateMissed) as caught:
        check_gates(found, [("top1_accuracy", 0.75), ("log_loss", 0.1), ("macro_auc", 0.5), ("top5_accuracy", 1.0)])
    message = str(caught.value)
    assert caught.value.exit_code == 7
    assert "missed 3 gates" in message
    assert "top1_accuracy is 0.5, must be at least 0.75" in message
    assert "must be at most 0.1" in message
    assert "macro_auc is not defined" in message
    assert "top5_accuracy" not in message
    assert "\n" not in message


def test_gates_are_missed_if_nothing_was_evaluated() -> None:
    check_gates(None, [])
    with pytest.raises(GateMissed, match="nothing was evaluated"):
        check_gates(None, [("top1_accuracy", 0.5)])
