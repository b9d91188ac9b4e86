"""How often does the interval of `wisesr compare` contain the true difference? A simulation where it is known.

    python -m benchmarks.heads.intervals
    python -m benchmarks.heads.intervals --repetitions 2000

Two heads with the same seeds answer the same 200 examples (crossed), or other ones with every seed (nested). An answer
is right if a sum of normal draws is above zero: how easy the example is for both heads, how easy it is for this head,
how well this training of this head went, and chance. So the difference in accuracy over all trainings and examples is
known. `seed` is the standard deviation of how well trainings went, `spread` the resulting standard deviation of
accuracy, in points. The table also has the interval from plain percentiles, without the correction for few seeds. The
goal is 95 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import erf, sqrt
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import arguments_for
from wisesr_cli.comparison import bootstrap
from wisesr_cli.display.grid import Column, Grid, to_markdown

REPETITIONS, QUICK_REPETITIONS = 400, 20
EXAMPLES = 200
SEEDS = (2, 3, 5, 10)
SEED_DEVIATIONS = (0.0, 0.05, 0.15, 0.3)
EASE = 0.5, 0.6  # of the first and the second head: mean of the sum
BOTH, HEAD, CHANCE = 1.0, 0.5, 0.7  # standard deviations


def main() -> None:
    """Simulate every case and print the table."""
    arguments = arguments_for(__doc__).parse_args()
    repetitions = arguments.repetitions or (QUICK_REPETITIONS if arguments.quick else REPETITIONS)
    print(to_markdown(table(repetitions)), end="")


def table(repetitions: int) -> Grid:
    """Return how often the intervals contain the true difference, and their widths in percentage points."""
    columns = (
        Column("examples"),
        *(Column(title, True) for title in ("seed", "spread", "n seeds", "coverage", "width", "plain", "its width")),
    )
    return Grid("", columns, tuple(rows(repetitions)))


def rows(repetitions: int) -> Iterator[tuple[str, ...]]:
    """Yield a row of the table for every case."""
    for same_examples in (True, False):
        for deviation in SEED_DEVIATIONS:
            for seeds in SEEDS:
                corrected, plain = simulate(seeds, deviation, same_examples=same_examples, repetitions=repetitions)
                yield (
                    "crossed" if same_examples else "nested",
                    f"{deviation:g}",
                    f"{100 * spread(deviation):.1f}",
                    str(seeds),
                    *(cell for held, width in (corrected, plain) for cell in (f"{held:.1%}", f"{100 * width:.1f}")),
                )


def simulate(
    seeds: int, deviation: float, *, same_examples: bool, repetitions: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the coverage and mean width of the interval, and of the one from plain percentiles."""
    random = np.random.default_rng([seeds, round(1000 * deviation), same_examples])
    truth = accuracy(EASE[1], deviation) - accuracy(EASE[0], deviation)
    found: list[list[tuple[float, float]]] = [[], []]
    for _ in range(repetitions):
        differences = draw(random, seeds, deviation, same_examples=same_examples)
        found[0].append(bootstrap.paired_interval(differences, same_examples=same_examples, replicates=2000))
        with patch.object(bootstrap, "seed_factor", lambda _: 1.0):
            found[1].append(bootstrap.paired_interval(differences, same_examples=same_examples, replicates=2000))
    held = [float(np.mean([low <= truth <= high for low, high in intervals])) for intervals in found]
    widths = [float(np.mean([high - low for low, high in intervals])) for intervals in found]
    return (held[0], widths[0]), (held[1], widths[1])


def draw(random: np.random.Generator, seeds: int, deviation: float, *, same_examples: bool) -> list[NDArray[np.int64]]:
    """Return the differences of one comparison: for every seed, (examples,) of -1, 0 and 1."""
    shape = (1 if same_examples else seeds, EXAMPLES)
    both = random.normal(0, BOTH, shape)
    correct = [
        ease
        + both
        + random.normal(0, HEAD, shape)
        + random.normal(0, deviation, (seeds, 1))
        + random.normal(0, CHANCE, (seeds, EXAMPLES))
        > 0
        for ease in EASE
    ]
    return list(correct[1].astype(np.int64) - correct[0])


def accuracy(ease: float, deviation: float) -> float:
    """Return the accuracy over all trainings and examples: the probability that the sum is above zero."""
    return 0.5 * (1 + erf(ease / sqrt(2 * (BOTH**2 + HEAD**2 + deviation**2 + CHANCE**2))))


def spread(deviation: float) -> float:
    """Return the standard deviation of the accuracy of single trainings of the first head, over all examples."""
    rest = sqrt(BOTH**2 + HEAD**2 + CHANCE**2)
    trainings = np.random.default_rng(0).normal(EASE[0], deviation, 10_000) / rest
    return float(np.std([0.5 * (1 + erf(value / sqrt(2))) for value in trainings]))


if __name__ == "__main__":
    main()
