"""How sure a difference between two heads is: a bootstrap over seeds and examples. NumPy only.

The same seeds train both heads, and both are judged on the same examples, so that only the difference counts: of one
seed and one example it is 1 where the other head is right and the first one wrong, -1 the other way round, else 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

REPLICATES = 10_000
CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.959963984540054  # 97.5 %
# Student's t at 97.5 % for 1 to 4 degrees of freedom; above, a series is right to 0.003.
_T_QUANTILES = (12.706204736, 4.302652730, 3.182446305, 2.776445105)


def paired_interval(
    differences: Sequence[NDArray[np.integer]], *, same_examples: bool, replicates: int = REPLICATES, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of the mean difference of two heads, as fractions in -1..1.

    Percentiles of a bootstrap: every replicate is the mean, moved by what drawing the seeds anew changes and by what
    drawing the examples anew changes. Examples are drawn once for all seeds where those were judged on the same ones
    (crossed), else for every seed apart (nested).

    With few seeds the percentiles of plain drawing are too narrow: drawing n values anew has only (n - 1) / n of their
    variance, and the variance itself is hardly known. So the moves by seeds are made larger, by sqrt(n / (n - 1))
    and by Student's t over the normal quantile: 9 times for 2 seeds, 2.7 for 3, 1.6 for 5, 1.2 for 10. In a simulation
    (`benchmarks/heads/intervals.py`: 32 cases of 400 comparisons, 2 to 10 seeds) 94 to 100 % of the intervals held the
    true difference; of those by plain drawing 72 to 100 %.

    It errs on the wide side, most where seeds matter least: what depends on seed and example together counts in both
    moves. It takes examples for independent: with many seeds it is too narrow where seeds draw overlapping examples
    from one folder. Where all differences are equal it has no width. It knows nothing of other data sets, of other
    settings, or of splits that every seed shares; with one seed nothing of other trainings.

    Args:
        differences: for every seed its differences, each (examples,) of -1, 0 and 1.
        same_examples: whether they are of the same examples, in the same order.
        replicates: how often to draw.
        seed: start of the draws; equal seeds give equal intervals.

    References:
        Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1 (2007); Hesterberg, What teachers should know
        about the bootstrap, The American Statistician 69 (2015), for the correction of small samples.
    """
    random = np.random.default_rng(seed)
    means = np.array([np.mean(values) for values in differences])
    drawn = _moves_by_examples(differences, same_examples, replicates, random)
    if len(means) > 1:
        drawn = drawn + seed_factor(len(means)) * _moves_by_seeds(means, replicates, random)
    edges = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]) + means.mean()
    low, high = np.clip(edges, -1.0, 1.0).tolist()
    return low, high


def seed_factor(seeds: int) -> float:
    """Return by how much the moves by seeds are made larger for so few of them, at least two."""
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


def _moves_by_seeds(means: NDArray[np.float64], replicates: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Return how far the mean moves when the seeds are drawn anew: (replicates,)."""
    counts = random.multinomial(len(means), np.full(len(means), 1 / len(means)), replicates)
    return np.asarray(counts @ means / len(means) - means.mean(), np.float64)


def _moves_by_examples(
    differences: Sequence[NDArray[np.integer]], same_examples: bool, replicates: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Return how far the mean moves when the examples are drawn anew: (replicates,)."""
    if same_examples:
        total: NDArray[np.integer] = np.sum(differences, axis=0)
        return _moves_of_sum(total, replicates, random) / len(differences)
    moves = [_moves_of_sum(values, replicates, random) for values in differences]
    return np.asarray(np.mean(moves, axis=0), np.float64)


def _moves_of_sum(values: NDArray[np.integer], replicates: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Return how far the mean of whole numbers moves when they are drawn anew.

    Few different values occur, so drawing how often each of them comes is the same as drawing every example.
    """
    distinct, counts = np.unique(values, return_counts=True)
    drawn = random.multinomial(len(values), counts / len(values), replicates)
    return np.asarray(drawn @ distinct / len(values) - values.mean(), np.float64)
