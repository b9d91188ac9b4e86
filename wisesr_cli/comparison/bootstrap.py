"""Confidence intervals of the difference between two heads: a bootstrap over seeds and examples. NumPy only.

Both heads are trained with the same seeds and evaluated on the same examples, so the results are paired: the
difference for a seed and an example is 1 if the other head is right and the first one wrong, -1 in the opposite case,
else 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

REPLICATES = 10_000
CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.959963984540054  # 97.5 %
# Student's t at 97.5 % for 1 to 4 degrees of freedom; above, a series is accurate to 0.003.
_T_QUANTILES = (12.706204736, 4.302652730, 3.182446305, 2.776445105)


def paired_interval(
    differences: Sequence[NDArray[np.integer]],
    *,
    same_examples: bool,
    by_example: Sequence[NDArray[np.integer]] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % interval of the mean difference of two heads, as fractions in -1..1.

    Its bounds are percentiles of a bootstrap: every replicate is the mean plus two deviations, one from resampling the
    seeds and one from resampling the examples. Examples are resampled once for all seeds if all were evaluated on the
    same ones (crossed), else separately for every seed (nested).

    With few seeds, the percentiles of plain resampling are too narrow: n resampled values have only (n - 1) / n of the
    variance, and the variance itself is poorly known. So the deviations from seeds are multiplied by sqrt(n / (n - 1))
    and by Student's t over the normal quantile: 9 times for 2 seeds, 2.7 for 3, 1.6 for 5, 1.2 for 10. In a simulation
    (`benchmarks/heads/intervals.py`: 32 cases of 400 comparisons, 2 to 10 seeds) 94 to 100 % of the intervals contained
    the true difference; with plain resampling 72 to 100 %.

    The interval tends to be too wide, most where seeds matter least: an interaction of seed and example counts in both
    deviations. It assumes independent examples: with many seeds it is too narrow if seeds draw overlapping examples
    from one folder. If all differences are equal, its width is zero. It does not cover other data sets, other settings,
    or splits that every seed shares; with one seed, it does not cover other trainings.

    `differences` has an array (examples,) of -1, 0 and 1 for every seed; `same_examples`: all arrays are for the same
    examples, in the same order. Equal values of `seed` give equal intervals.

    In cross-validation, `differences` has an array for every fold of every seed, and `by_example` one for every seed,
    with all its folds joined, so that it has each example once. Folds then take the place of seeds. Their trainings
    share most of their images, so they are more alike than trainings on separate images: the interval does not cover
    the effect of other training images, and no unbiased estimate of that exists.

    References:
        Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1 (2007); Hesterberg, What teachers should know
        about the bootstrap, The American Statistician 69 (2015), for the correction of small samples; Bengio and
        Grandvalet, No unbiased estimator of the variance of k-fold cross-validation, JMLR 5 (2004).
    """
    random = np.random.default_rng(seed)
    means = np.array([np.mean(values) for values in differences])
    drawn = _example_deviations(by_example or differences, same_examples, replicates, random)
    if len(means) > 1:
        drawn = drawn + seed_factor(len(means)) * _seed_deviations(means, replicates, random)
    edges = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) + means.mean()
    low, high = np.clip(edges, -1.0, 1.0).tolist()
    return low, high


def seed_factor(seeds: int) -> float:
    """Return the factor of the deviations from this number of seeds, at least two."""
    return float(np.sqrt(seeds / (seeds - 1)) * t_quantile(seeds - 1) / NORMAL_QUANTILE)


def t_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    if freedom <= len(_T_QUANTILES):
        return _T_QUANTILES[freedom - 1]
    z = NORMAL_QUANTILE
    terms = (
        z,
        (z**3 + z) / (4 * freedom),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3),
    )
    return sum(terms)


def _seed_deviations(means: NDArray[np.float64], replicates: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Return the deviations of the mean when seeds are resampled: (replicates,)."""
    counts = random.multinomial(len(means), np.full(len(means), 1 / len(means)), replicates)
    return np.asarray(counts @ means / len(means) - means.mean(), np.float64)


def _example_deviations(
    differences: Sequence[NDArray[np.integer]], same_examples: bool, replicates: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Return the deviations of the mean when examples are resampled: (replicates,)."""
    if same_examples:
        total: NDArray[np.integer] = np.sum(differences, axis=0)
        return _sum_deviations(total, replicates, random) / len(differences)
    deviations = [_sum_deviations(values, replicates, random) for values in differences]
    return np.asarray(np.mean(deviations, axis=0), np.float64)


def _sum_deviations(values: NDArray[np.integer], replicates: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Return the deviations of the mean of integers when they are resampled.

    As there are few distinct values, this draws the count of each, which is equivalent to drawing every example.
    """
    distinct, counts = np.unique(values, return_counts=True)
    drawn = random.multinomial(len(values), counts / len(values), replicates)
    return np.asarray(drawn @ distinct / len(values) - values.mean(), np.float64)
