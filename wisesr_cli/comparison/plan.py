"""The plan of a comparison: the requested heads and seeds, and the config of every training. No Keras.

The trainings of a comparison differ in their head, their seed and the fold that they hold out. The seed determines the
split, the folds, the order of the examples, the augmentation and the backbone's initial weights, so that heads with the
same seed form a pair.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wisesr_cli.config.reader import LoadedConfig, Override, head_overrides, overrides_of, recipe_of
from wisesr_cli.config.recipe import Recipe
from wisesr_cli.config.yaml_reader import KeyPath
from wisesr_cli.data.settings import MOST_FOLDS, DataConfig
from wisesr_cli.errors import UsageError
from wisesr_cli.models.backbones import FROM_WEIGHTS
from wisesr_cli.models.heads import HEADS, HeadOptions
from wisesr_cli.requests import CompareRequest
from wisesr_cli.run.located import load_source, with_roots
from wisesr_cli.run.progress import config_for_comparison
from wisesr_cli.text import counted, visible

if TYPE_CHECKING:
    from wisesr_cli.config.schema import Config

MOST_SEEDS = 1000
USUAL_SEEDS, USUAL_SEEDS_OF_FOLDS = 3, 1
DECIDED_BY: dict[KeyPath, str] = {("seed",): "--seeds", ("model", "head", "name"): "--heads"}
DECIDED_BY_FOLDS: dict[KeyPath, str] = {**DECIDED_BY, ("data", "fold"): "--folds"}
LONGEST_FOLDER_NAME = 180  # bytes of a run's name before its seed


@dataclass(frozen=True)
class ComparedHead:
    """A head as typed, and the config of a training with it; the seed is set for each training."""

    label: str
    loaded: LoadedConfig
    usual: HeadOptions

    @property
    def folder_name(self) -> str:
        """The start of its run directories' names, before the seed: the head, with options that are not the usual ones.

        The usual options are the head's defaults or, for a folder of images, those that its recipe and the command give
        every head.
        """
        head = self.loaded.config.model.head
        given = [f"{key}-{value}" for key, value in head if key != "name" and value != getattr(self.usual, key)]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join((head.name, *given)))
        return name.encode()[:LONGEST_FOLDER_NAME].decode()


@dataclass(frozen=True)
class PlannedTraining:
    """One training of a comparison: its head, seed and fold, the name of its run directory, and its config."""

    head: str
    seed: int
    run: str
    loaded: LoadedConfig
    fold: int | None = None

    @property
    def title(self) -> str:
        """The training in words."""
        return training_title(self.head, self.seed, self.fold)


@dataclass(frozen=True)
class ComparisonPlan:
    """The trainings to do: every head with every seed. The others are compared with the first head.

    `left_out` has notes on settings that the compared heads, seeds and folds override. With `folds`, every head is
    trained with every seed on each fold, drawn from the seed; the configs of `heads` hold out the first one.
    """

    heads: tuple[ComparedHead, ...]
    seeds: tuple[int, ...]
    left_out: tuple[str, ...] = ()
    folds: int | None = None

    @property
    def base(self) -> LoadedConfig:
        """The config of the first head, which has all the settings that the trainings share."""
        return self.heads[0].loaded

    @property
    def epochs(self) -> int:
        """The number of epochs of each training."""
        return self.base.config.train.epochs

    @property
    def default_name(self) -> str:
        """The name of the comparison's folder if none is given."""
        head = self.base.config.model.head.name
        return f"{self.base.default_name.removesuffix(f'-{head}')}-compare"

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes for the user on how the configs came about, each once."""
        return (*self.left_out, *dict.fromkeys(note for head in self.heads for note in head.loaded.notes))

    def with_settings(self, data: DataConfig, weights: str | None) -> ComparisonPlan:
        """Return the plan with these images and `model.weights` in every training."""

        def of(head: ComparedHead) -> ComparedHead:
            config = head.loaded.config
            model = config.model.model_copy(update={"weights": weights})
            return replace(
                head, loaded=replace(head.loaded, config=config.model_copy(update={"data": data, "model": model}))
            )

        return replace(self, heads=tuple(map(of, self.heads)))

    def shared_settings(self) -> dict[str, Any]:
        """Return the settings, flat, that all trainings share and that affect their results."""
        settings = config_for_comparison(self.base.config)
        return {key: value for key, value in settings.items() if key != "seed" and not key.startswith("model.head.")}

    def trainings(self, folder: Path) -> Iterator[PlannedTraining]:
        """Yield every training, in order: all heads with the first seed and fold, then all with the next one."""
        numbers = (None,) if self.folds is None else range(self.folds)
        for seed, fold, head in product(self.seeds, numbers, self.heads):
            run = f"{head.folder_name}-seed{seed}" + ("" if fold is None else f"-fold{fold}")
            config = head.loaded.config if fold is None else _with_fold(head.loaded.config, fold, self.folds)
            config = config.model_copy(update={"name": run, "output_dir": folder, "seed": seed})
            yield PlannedTraining(head.label, seed, run, LoadedConfig(config, (), run), fold)


def plan_of(request: CompareRequest) -> ComparisonPlan:
    """Return what to compare.

    Raises:
        ConfigError: mistakes in the config or in a head.
        UsageError: a head or seed is given twice, or there is nothing to compare.
    """
    folds = _checked_folds(request)
    overrides = overrides_of(request.settings)
    heads = request.heads
    if isinstance(heads, str):
        heads = [part for part in heads.split(",") if part.strip()]
    recipe = recipe_of(request.source, with_roots(request.source, overrides))
    chosen = tuple(_compared_head(request.source, overrides, recipe, text.strip()) for text in heads)
    if len(chosen) < (2 if folds is None else 1):
        raise UsageError("--heads: give at least two heads, separated by commas, for instance --heads gap,wise")
    for number, head in enumerate(chosen):
        for other in chosen[:number]:
            if head.loaded.config.model.head == other.loaded.config.model.head:
                raise UsageError(f"--heads: '{visible(head.label)}' is the same head as '{visible(other.label)}'")
    if chosen[0].loaded.config.model.task == "multilabel":
        raise UsageError(
            "compare needs one label per image, and model.task is multilabel: train each head with --head, and "
            "compare the mean_average_precision that evaluate gives"
        )
    left_out = tuple(
        f"{visible(given.origin)}: ignored, as {option} says which ones"
        for given in overrides
        if (option := (DECIDED_BY if folds is None else DECIDED_BY_FOLDS).get(given.path)) is not None
    )
    if folds is not None:
        chosen = tuple(
            replace(head, loaded=replace(head.loaded, config=_with_fold(head.loaded.config, 0, folds)))
            for head in chosen
        )
    return ComparisonPlan(chosen, _seeds_of(request), left_out, folds)


def training_title(head: str, seed: int, fold: int | None) -> str:
    """Return `wise, seed 0`, or `wise, seed 0, fold 3`."""
    return f"{head}, seed {seed}" + ("" if fold is None else f", fold {fold}")


def _with_fold(config: Config, fold: int, folds: int | None) -> Config:
    data = config.data.model_copy(update={"fold": f"{fold}/{folds}"})
    return config.model_copy(update={"data": data})


def _checked_folds(request: CompareRequest) -> int | None:
    if request.folds is None:
        if request.label_issues:
            raise UsageError(
                "--label-issues needs --folds, for instance --folds 5: labels are checked by models that were not "
                "trained on them"
            )
        return None
    if not 2 <= request.folds <= MOST_FOLDS:
        raise UsageError(f"--folds {request.folds}: give 2 to {MOST_FOLDS}")
    return request.folds


def _seeds_of(request: CompareRequest) -> tuple[int, ...]:
    seeds = request.seeds
    if seeds is None:
        seeds = USUAL_SEEDS if request.folds is None else USUAL_SEEDS_OF_FOLDS
    if isinstance(seeds, int):
        return seeds_up_to(seeds)
    return parse_seeds(seeds) if isinstance(seeds, str) else _checked_seeds(seeds)


def _compared_head(
    source: str | Path | None, overrides: Sequence[Override], recipe: Recipe | None, text: str
) -> ComparedHead:
    """Return a head with its config, which never loads a trained head, so that all heads start on equal terms."""
    loaded = load_source(source, (*overrides, *head_overrides(text, f"--heads {text}")), recipe=recipe)
    model = loaded.config.model
    notes = loaded.notes
    if model.load_head is True or model.backbone == FROM_WEIGHTS:
        note = "every head is newly initialized: model.weights gives only the backbone, and model.load_head is ignored"
        notes = (*notes, note)
    config = loaded.config.model_copy(update={"model": model.model_copy(update={"load_head": False})})
    usual: HeadOptions = HEADS[model.head.name].options(name=model.head.name)
    if recipe is not None:
        named = head_overrides(model.head.name, "--heads")
        usual = load_source(source, (*overrides, *named), recipe=recipe).config.model.head
    return ComparedHead(text, replace(loaded, config=config, notes=notes), usual)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of `--seeds 3` (0, 1, 2) or of `--seeds 0,5,7`; raises a `UsageError` for any other text."""
    if re.fullmatch(r"[0-9]{1,9}", text.strip()):
        return seeds_up_to(int(text))
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(re.fullmatch(r"[0-9]{1,10}", part) for part in parts):
        raise UsageError(
            f"--seeds {visible(text)}: give a number of seeds, such as 3 for 0, 1, 2, or the seeds, such as 0,5,7"
        )
    return _checked_seeds([int(part) for part in parts])


def seeds_up_to(count: int) -> tuple[int, ...]:
    """Return `count` seeds: 0, 1, ..."""
    if not 1 <= count <= MOST_SEEDS:
        raise UsageError(f"--seeds {count}: give 1 to {MOST_SEEDS:,} seeds; for seed {count} alone, write {count},")
    return tuple(range(count))


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    if not seeds or len(seeds) > MOST_SEEDS:
        raise UsageError(f"--seeds: {counted(len(seeds), 'seed')}; give 1 to {MOST_SEEDS:,}")
    for number, seed in enumerate(seeds):
        if not 0 <= seed < 2**31:
            raise UsageError(f"--seeds: {seed} is out of range; allowed: 0 to {2**31 - 1}")
        if seed in seeds[:number]:
            raise UsageError(f"--seeds: {seed} is given twice")
    return tuple(seeds)
