"""The plan of a comparison: its heads, seeds and folds, and usage errors."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from command_line import QUICK, CommandLine, make_photos
from comparisons import HEADS, SEEDS, settings_of

import wisesr_cli
from wisesr_cli.cli.compare import compare as compare_command
from wisesr_cli.comparison.plan import parse_seeds, plan_of
from wisesr_cli.config.reader import parse_set
from wisesr_cli.errors import UsageError
from wisesr_cli.listening import Silent
from wisesr_cli.machine import keras_start
from wisesr_cli.requests import CompareRequest
from wisesr_cli.training.examples import open_examples
from wisesr_cli.training.trainer import Trainer


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--heads", "gap,wiise"], "Did you mean 'wise'?"),
        (["--heads", "gap,wise:prepool=2"], "Did you mean 'pre_pool'?"),
        (["--heads", "gap,wise:pooling=best"], "model.head.pooling"),
        (["--heads", "gap,wise:pooling"], "expected HEAD:option=value"),
        (["--heads", "gap,wise:=3"], "--heads wise:=3: expected HEAD:option=value"),
        (["--heads", "gap,wise:name=flatten"], "--heads wise:name=flatten: expected HEAD:option=value"),
        (["--heads", "gap"], "at least two heads"),
        (["--heads", "wise,gap,wise"], "'wise' is the same head as 'wise'"),
        (["--heads", "wise,wise:pooling=tile"], "'wise:pooling=tile' is the same head as 'wise'"),
        (["--heads", "gap,wise:pre_pool=9"], "model.head.pre_pool is 9, larger than the feature map"),
        (["--folds", "1"], "--folds 1: give 2 to 100"),
        (["--label-issues"], "--label-issues needs --folds"),
        (["--seeds", "0"], "give 1 to 1,000 seeds"),
        (["--seeds", "-1"], "--seeds -1: give a number of seeds"),
        (["--seeds", "1,1"], "1 is given twice"),
        (["--seeds", "two"], "--seeds two: give a number of seeds"),
        (["--seeds", "1,99999999999"], "--seeds 1,99999999999: give a number of seeds"),
        (["-s", "data.validation_split=0"], "nothing to evaluate on"),
        (["--name", "../x"], "name"),
    ],
)
def test_a_usage_error_exits_with_2_and_writes_nothing(
    words: list[str], said: str, wisesr: CommandLine, tmp_path: Path
) -> None:
    photos = make_photos(tmp_path / "photos", 4)
    wisesr("compare", photos, *QUICK, "-o", tmp_path / "runs", *words).failed(2, said)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".png"]


def test_seeds_are_given_as_a_count_or_a_list(tmp_path: Path) -> None:
    assert parse_seeds("3") == (0, 1, 2)
    assert parse_seeds("0, 5,7") == (0, 5, 7)
    assert parse_seeds("7,") == (7,)
    with pytest.raises(UsageError):
        plan_of(CompareRequest(str(tmp_path), heads=HEADS, seeds=()))


def test_the_command_and_the_function_have_the_same_defaults() -> None:
    defaults, fields = inspect.signature(compare_command).parameters, CompareRequest("photos")
    assert defaults["heads"].default == fields.heads
    assert [defaults[name].default for name in ("seeds", "folds", "label_issues")] == [None, None, False]
    assert (fields.seeds, fields.folds, fields.label_issues) == (None, None, False)


def test_seeds_default_to_three_or_with_folds_to_one(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 4)
    assert plan_of(CompareRequest(photos)).seeds == (0, 1, 2)
    assert plan_of(CompareRequest(photos, folds=5)).seeds == (0,)
    plan = plan_of(CompareRequest(photos, heads="gap", folds=2, seeds="4,7"))
    trainings = [*plan.trainings(tmp_path)]
    assert [training.run for training in trainings] == [f"gap-seed{s}-fold{f}" for s in (4, 7) for f in (0, 1)]
    assert [training.loaded.config.data.fold for training in trainings] == ["0/2", "1/2"] * 2


def test_options_of_the_config_apply_to_every_head_that_has_them(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("model: {head: {name: wise, dropout: 0.5, pooling: valid}}\n", encoding="utf-8")
    plan = plan_of(CompareRequest(tmp_path / "c.yaml", heads=("gap", "wise", "wise:pooling=tile"), seeds=(0,)))
    heads = [head.loaded.config.model.head.model_dump() for head in plan.heads]
    assert [head["dropout"] for head in heads] == [0.5, 0.5, 0.5]
    assert [head.get("pooling") for head in heads] == [None, "valid", "tile"]
    assert plan.notes == ("--heads gap: the head 'gap' has no pooling; ignored",)
    names = [training.run for training in plan.trainings(tmp_path)]
    assert names == ["gap-dropout-0.5-seed0", "wise-dropout-0.5-pooling-valid-seed0", "wise-dropout-0.5-seed0"]


def test_settings_controlled_by_compare_are_ignored_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("{seed: 5, model: {head: wise}}\n", encoding="utf-8")
    given = [parse_set(text) for text in ("seed=7", "model.head.name=fc", "name=mine")]
    plan = plan_of(CompareRequest(tmp_path / "c.yaml", given, heads=HEADS, seeds=SEEDS))
    assert plan.notes == (
        "--set seed=7: ignored, as --seeds says which ones",
        "--set model.head.name=fc: ignored, as --heads says which ones",
    )
    assert {training.loaded.config.seed for training in plan.trainings(tmp_path)} == {*SEEDS}


# All else equal


def test_heads_with_the_same_seed_share_initial_weights_split_and_example_order(tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 12)
    device, starts = keras_start.start("cpu"), {}
    for head in ("gap", "wise", "flatten", "fc"):
        settings = {**settings_of(tmp_path / "run"), "model.head.name": head, "data.dir": str(photos), "seed": 3}
        config = wisesr_cli.load_config(None, settings)
        examples = open_examples(config, Silent())
        trainer = Trainer(config, examples, device)
        orders = [trainer.random_draws(epoch)["order of examples"].tolist() for epoch in (0, 1)]
        starts[head] = trainer.classifier.backbone.get_weights(), [*examples.index.rows()], orders
        examples.close()
    weights, split, orders = starts.pop("gap")
    assert {name for _, _, name in split} == {"train", "validation"}  # drawn with the seed
    for other_weights, *others in starts.values():
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(weights, other_weights, strict=True))
        assert others == [split, orders]
