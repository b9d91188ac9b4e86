"""Writes the conclusions that the results of a comparison support, and claims nothing that was not computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from wisesr_cli.results.training import ComparedTraining, Comparison, ComparisonRow
from wisesr_cli.text import counted, joined

ENOUGH_SEEDS = 3  # with fewer, the variation between trainings is poorly known
ADVISED_SEEDS = 5
FEW_COMPARISONS = 2  # above this number, a sentence warns of chance results


def conclude(comparison: Comparison, *, in_groups: bool = False) -> Comparison:
    """Return the comparison with its conclusions, a sentence each; `in_groups`: the images form groups."""
    sentences = (
        *_about_feature_map(comparison),
        *_about_differences(comparison),
        *_about_seeds(comparison),
        *_about_split(comparison),
        *_about_independence(comparison, in_groups=in_groups),
        *_about_missing_results(comparison),
        *_about_schedules(comparison),
        *_about_costs(comparison),
    )
    return replace(comparison, conclusions=tuple(sentences))


def examples_of(comparison: Comparison) -> str:
    """Return the number of evaluated examples as text: `179 examples`."""
    examples = counted(comparison.examples, "example")
    if comparison.folds is not None:
        return examples
    return examples if comparison.same_examples else f"up to {examples} for each seed"


def points(difference: float) -> str:
    """Return a difference of fractions in percentage points, with its sign: `+3.1`."""
    return f"{100 * difference:+.1f}".replace("-0.0", "+0.0").replace("+0.0", "0.0")


def _about_feature_map(comparison: Comparison) -> Iterator[str]:
    if comparison.feature_map[:2] == (1, 1):
        yield (
            "the feature map has a single position, so every head that reads positions equals GAP here, and "
            "differences are due to chance: use larger images or another backbone"
        )


def _about_differences(comparison: Comparison) -> Iterator[str]:
    first, *others = comparison.rows
    for row in others:
        if row.difference_to_first_mean is None or row.difference_to_first_ci95 is None:
            yield f"{row.head} against {first.head}: no seed has a result for both, so they cannot be compared"
            continue
        yield _difference(row, first, comparison)
    if len(others) > FEW_COMPARISONS:
        yield (
            f"{len(others)} heads are compared to {first.head}, each at 95 % on its own: the chance that at least one "
            f"of the intervals misses the truth is up to {min(100, 5 * len(others))} %"
        )


def _shared(row: ComparisonRow, first: ComparisonRow) -> list[int]:
    """Return the seeds for which both heads have a result."""
    return [seed for seed in row.seeds if seed in first.seeds]


def trainings_of(row: ComparisonRow, comparison: Comparison) -> list[ComparedTraining]:
    """Return the trainings of a head that have a result."""
    return [item for item in comparison.trainings if item.head == row.head and item.top1_accuracy is not None]


def draws_of(seeds: int, folds: int | None) -> str:
    """Return what the figures are averaged over: `3 seeds`, `5 folds`, or `5 folds with 3 seeds`."""
    if folds is None:
        return counted(seeds, "seed")
    return counted(folds, "fold") + (f" with {counted(seeds, 'seed')}" if seeds > 1 else "")


def _difference(row: ComparisonRow, first: ComparisonRow, comparison: Comparison) -> str:
    """Return the sentence that compares a head with the first one."""
    assert row.difference_to_first_mean is not None
    assert row.difference_to_first_ci95 is not None
    low, high = row.difference_to_first_ci95
    shared = _shared(row, first)
    seeds = draws_of(len(shared), comparison.folds)
    figures = (
        f"{row.head} against {first.head}: {points(row.difference_to_first_mean)} points "
        f"(95 % interval {points(low)} to {points(high)}; {seeds}, {examples_of(comparison)})"
    )
    if low == high:
        agree = "all examples and seeds agree, so the interval has zero width and says nothing about other images"
        return f"{figures}: {agree}"
    if low <= 0 <= high:
        return f"{figures}: the interval includes zero: no clear difference"
    better = "better" if low > 0 else "worse"
    if len(shared) == 1 and comparison.folds is None:
        result = f"this one training was {better} by more than the choice of images explains; other seeds may differ"
        return f"{figures}: {result}"
    drawn = "seed" if comparison.folds is None else "fold"
    return f"{figures}: {better} on images like these, by more than the choice of {drawn} and images explains"


def _about_seeds(comparison: Comparison) -> Iterator[str]:
    first, *others = comparison.rows
    if comparison.folds is not None:
        if others:
            yield (
                "the trainings of different folds share most of their images, so the intervals understate how much "
                "results vary with the training images"
            )
        return
    seeds = min((len(shared) for row in others if (shared := _shared(row, first))), default=0)
    more = f"with --seeds {more_seeds([item.seed for item in comparison.trainings])} --resume"
    if seeds == 1:
        yield (
            "1 seed: the intervals cover differences between images, not between trainings: use "
            f"{ENOUGH_SEEDS}, or better {ADVISED_SEEDS}, {more}"
        )
    elif 1 < seeds < ENOUGH_SEEDS:
        yield (
            f"{seeds} seeds say little about how much trainings differ, so the intervals are wide: use "
            f"{ENOUGH_SEEDS}, or better {ADVISED_SEEDS}, {more}"
        )


def more_seeds(seeds: Sequence[int]) -> str:
    """Return the value of `--seeds` that adds seeds to the existing ones, up to the advised number."""
    known = list(dict.fromkeys(seeds))
    new = (seed for seed in range(ADVISED_SEEDS) if seed not in known)
    wanted = known + [seed for seed, _ in zip(new, range(len(known), ADVISED_SEEDS), strict=False)]
    return str(len(wanted)) if sorted(wanted) == list(range(len(wanted))) else ",".join(map(str, wanted))


def _about_independence(comparison: Comparison, *, in_groups: bool) -> Iterator[str]:
    """Warn if images are not independent, although the intervals assume it."""
    if not comparison.same_examples and comparison.folds is None:
        yield (
            "every seed drew its own training and evaluation images from the same pool: those of different seeds "
            "overlap, which the intervals do not account for, so with many seeds they are too narrow"
        )
    if in_groups:
        yield "the intervals treat images of the same group as independent; if these are similar, they are too narrow"


def _about_split(comparison: Comparison) -> Iterator[str]:
    if comparison.split == "validation":
        yield (
            "evaluated on validation, which also chose the best epochs: all accuracies are optimistic, and their "
            "differences less reliable than on test images"
        )


def _about_missing_results(comparison: Comparison) -> Iterator[str]:
    for training in comparison.trainings:
        if training.error is not None:
            fold = "" if training.fold is None else f", fold {training.fold}"
            yield f"{training.head} has no result for seed {training.seed}{fold}: {training.error}"


def _about_schedules(comparison: Comparison) -> Iterator[str]:
    """Warn if heads with one seed had different schedules: one a single run, another resumed for more epochs."""
    by_draw: dict[tuple[int, int | None], list[ComparedTraining]] = {}
    for training in comparison.trainings:
        if training.error is None:
            by_draw.setdefault((training.seed, training.fold), []).append(training)
    for (seed, fold), trainings in by_draw.items():
        if len({training.schedules for training in trainings}) > 1:
            ways = joined(f"{item.head} {' and then '.join(map(str, item.schedules))}" for item in trainings)
            which = f"seed {seed}" if fold is None else f"seed {seed}, fold {fold},"
            yield (
                f"{which} was not trained alike for all heads, as learning rates depend on the requested number of "
                f"epochs ({ways}): do not read much into its differences"
            )


def _about_costs(comparison: Comparison) -> Iterator[str]:
    first, *others = comparison.rows
    for row in others:
        if row.head_parameters is None or first.head_parameters is None or row.total_parameters is None:
            continue
        assert first.total_parameters is not None
        yield (
            f"{row.head} has {row.head_parameters:,} parameters in its head, {first.head} {first.head_parameters:,} "
            f"({_times(row.head_parameters, first.head_parameters)}); with the backbone "
            f"{row.total_parameters:,} and {first.total_parameters:,} "
            f"({_times(row.total_parameters, first.total_parameters)})"
        )


def _times(count: int, to: int) -> str:
    return f"{count / to:,.2f} times"
