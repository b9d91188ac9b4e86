"""The plan of a comparison: heads and seeds as they were asked for, and the config of every training. No Keras.

Every training of a comparison differs from the others in its head, its seed and the fold that it holds out. The seed
decides the split, the folds, the order of the examples, the augmentation and the backbone that it starts from, so that
heads with the same seed form a pair.
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
    """A head as it was typed, and the config of a training with it; its seed is set for each training."""

    label: str
    loaded: LoadedConfig
    usual: HeadOptions

    @property
    def folder_name(self) -> str:
        """What its run directories are called before the seed: the head with the options that are not the usual ones.

        These are the head's defaults; for a folder of images, those that its recipe and the command give every head.
        """
        head = self.loaded.config.model.head
        given = [f"{key}-{value}" for key, value in head if key != "name" and value != getattr(self.usual, key)]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join((head.name, *given)))
        return name.encode()[:LONGEST_FOLDER_NAME].decode()


@dataclass(frozen=True)
class PlannedTraining:
    """One training of a comparison: which, the name of its run directory, and how it is done."""

    head: str
    seed: int
    run: str
    loaded: LoadedConfig
    fold: int | None = None

    @property
    def title(self) -> str:
        """Which training it is, in words."""
        return training_title(self.head, self.seed, self.fold)


@dataclass(frozen=True)
class ComparisonPlan:
    """Which trainings to do: every head with every seed. The first head is the one that the others are compared to.

    `left_out` names what the command line said of heads and seeds beside that. With `folds`, every head is trained with
    every seed on each fold, which the seed draws; the configs of `heads` hold out the first one.
    """

    heads: tuple[ComparedHead, ...]
    seeds: tuple[int, ...]
    left_out: tuple[str, ...] = ()
    folds: int | None = None

    @property
    def base(self) -> LoadedConfig:
        """The config of the first head, which has everything that all trainings share."""
        return self.heads[0].loaded

    @property
    def epochs(self) -> int:
        """How many epochs each training takes."""
        return self.base.config.train.epochs

    @property
    def default_name(self) -> str:
        """The name of the comparison's folder where none is given."""
        head = self.base.config.model.head.name
        return f"{self.base.default_name.removesuffix(f'-{head}')}-compare"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how the configs came about, each once."""
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
        """Return the settings that are the same for all trainings and decide their numbers, flat."""
        settings = config_for_comparison(self.base.config)
        return {key: value for key, value in settings.items() if key != "seed" and not key.startswith("model.head.")}

    def trainings(self, folder: Path) -> Iterator[PlannedTraining]:
        """Give every training, in order: all heads with the first seed and fold, then all with the next one."""
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
        UsageError: a head or a seed is given twice, or there is nothing to compare.
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
            "compare tells heads apart by which images got their one label right, and model.task is multilabel: train "
            "each head with --head, and compare the mean_average_precision that evaluate gives"
        )
    left_out = tuple(
        f"{visible(given.origin)}: left out, as {option} says which ones"
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
                "--label-issues needs --folds, for instance --folds 5: labels are doubted by models that were not "
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
    """Return a head with its config, starting anew: none of those compared begins with more than the others."""
    loaded = load_source(source, (*overrides, *head_overrides(text, f"--heads {text}")), recipe=recipe)
    model = loaded.config.model
    notes = loaded.notes
    if model.load_head is True or model.backbone == FROM_WEIGHTS:
        notes = (*notes, "every head starts anew on the backbone of model.weights, whatever model.load_head says")
    config = loaded.config.model_copy(update={"model": model.model_copy(update={"load_head": False})})
    usual: HeadOptions = HEADS[model.head.name].options(name=model.head.name)
    if recipe is not None:
        named = head_overrides(model.head.name, "--heads")
        usual = load_source(source, (*overrides, *named), recipe=recipe).config.model.head
    return ComparedHead(text, replace(loaded, config=config, notes=notes), usual)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of `--seeds 3`, which is 0, 1, 2, or of `--seeds 0,5,7`; `UsageError` for other texts."""
    if re.fullmatch(r"[0-9]{1,9}", text.strip()):
        return seeds_up_to(int(text))
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(re.fullmatch(r"[0-9]{1,10}", part) for part in parts):
        raise UsageError(f"--seeds {visible(text)}: give how many, as 3 for 0, 1, 2, or which ones, as 0,5,7")
    return _checked_seeds([int(part) for part in parts])


def seeds_up_to(count: int) -> tuple[int, ...]:
    """Return the seeds 0, 1, ..., as many as `count`."""
    if not 1 <= count <= MOST_SEEDS:
        raise UsageError(f"--seeds {count}: give 1 to {MOST_SEEDS:,} seeds; a single one is given as {count},")
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
