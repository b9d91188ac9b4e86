"""Upgrading the recipes reproduces the stored outcomes that docs/upgrading.md shows."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest

from benchmarks.upgrade.recipes import FIGURES, MACHINE, RECIPES, Outcome, outcome_of, read_kept
from wisesr_cli.exporting.agreement import MOST_DIFFERENCE
from wisesr_cli.upgrading import convert

QUICK = ("keras.ops.relu in the backbone", "TensorFlow's tutorial on image classification: Flatten")
KEPT = {outcome.recipe: outcome for outcome in read_kept()[0]}


def upgraded(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    monkeypatch.setattr(convert, "keep_litert", lambda *arguments, **options: None)  # takes most of the time
    return outcome_of(name, RECIPES[name], folder)


def test_every_recipe_was_upgraded_with_equal_outputs_or_rejected_with_a_reason() -> None:
    assert list(KEPT) == [name for name in RECIPES if name in KEPT]
    assert len(KEPT) >= 31
    assert MACHINE in FIGURES.read_text(encoding="utf-8")
    for outcome in KEPT.values():
        if outcome.refused:
            assert len(outcome.refused) > 20
        else:
            assert outcome.difference <= MOST_DIFFERENCE
            assert outcome.variation > 100 * MOST_DIFFERENCE  # otherwise equal outputs would prove little
            assert outcome.tail


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the figures are those of TensorFlow")
@pytest.mark.parametrize("name", QUICK)
def test_a_small_recipe_reproduces_its_stored_outcome(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = upgraded(name, tmp_path, monkeypatch)
    assert (found.refused, found.tail, found.scaling) == (KEPT[name].refused, KEPT[name].tail, KEPT[name].scaling)
    assert found.difference <= MOST_DIFFERENCE


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the figures are those of TensorFlow")
@pytest.mark.parametrize("name", sorted(set(RECIPES) - set(QUICK)))
def test_every_other_recipe_reproduces_its_stored_outcome(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = upgraded(name, tmp_path, monkeypatch)
    assert bool(found.refused) == bool(KEPT[name].refused)
    assert found.tail == KEPT[name].tail
    assert found.difference <= MOST_DIFFERENCE
