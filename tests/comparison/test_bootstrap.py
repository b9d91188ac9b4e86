"""The interval of a paired difference: its components, and how often it covers a known true value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from wisesr_cli.comparison import bootstrap
from wisesr_cli.comparison.bootstrap import paired_interval, seed_factor, t_quantile


def drawn_differences(seeds: int, examples: int, *, shift: float = 0.1, seed: int = 0) -> list[NDArray[np.int64]]:
    """Return differences of -1, 0 and 1 with a mean near `shift`."""
    random = np.random.default_rng(seed)
    chances = [0.3 - shift / 2, 0.4, 0.3 + shift / 2]
    return [random.choice([-1, 0, 1], examples, p=chances) for _ in range(seeds)]


def test_the_t_quantile_has_97_5_percent_of_the_density_below_it() -> None:
    for freedom in (1, 2, 3, 4, 5, 6, 9, 30, 200):
        scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
        steps = np.linspace(0, t_quantile(freedom), 200_001)
        density = scale * (1 + steps**2 / freedom) ** (-(freedom + 1) / 2)
        assert np.trapezoid(density, steps) == pytest.approx(0.475, abs=1e-4), freedom


def test_resampling_of_examples_matches_drawing_every_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference draws whole examples, for all seeds at once, in a loop."""
    monkeypatch.setattr(bootstrap, "seed_factor", lambda seeds: 0.0)
    differences = drawn_differences(3, 40)
    random, table = np.random.default_rng(1), np.array(differences)
    means = [table[:, random.integers(0, 40, 40)].mean() for _ in range(20_000)]
    expected = np.quantile(means, [0.025, 0.975])
    assert paired_interval(differences, same_examples=True) == pytest.approx(expected, abs=0.012)


def test_examples_that_differ_between_seeds_are_drawn_separately(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "seed_factor", lambda seeds: 0.0)
    differences = [*drawn_differences(1, 25), *drawn_differences(1, 60, seed=5)]
    random = np.random.default_rng(1)
    means = [np.mean([values[random.integers(0, len(values), len(values))].mean() for values in differences])
             for _ in range(20_000)]  # fmt: skip
    expected = np.quantile(means, [0.025, 0.975])
    assert paired_interval(differences, same_examples=False) == pytest.approx(expected, abs=0.012)


def test_seeds_that_differ_widen_the_interval_by_the_corrected_factor() -> None:
    """If all examples of a seed agree, only seeds are drawn, and the interval is Student's."""
    means = np.array([0, 0, 1, 1, 0, 1, 0, 1, 1, 1])
    low, high = paired_interval([np.full(500, value) for value in means], same_examples=False)
    student = t_quantile(9) * means.std(ddof=1) / math.sqrt(10)
    assert low == pytest.approx(means.mean() - student, abs=0.05)
    assert high == pytest.approx(min(1.0, means.mean() + student), abs=0.05)


def test_the_correction_fades_with_the_number_of_seeds() -> None:
    factors = [seed_factor(seeds) for seeds in (2, 3, 5, 10, 1000)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] == pytest.approx(9.17, abs=0.01)
    assert factors[-1] == pytest.approx(1.0, abs=0.005)


def test_one_seed_has_an_interval_over_its_examples() -> None:
    differences = drawn_differences(1, 400)
    low, high = paired_interval(differences, same_examples=True)
    mean, error = differences[0].mean(), differences[0].std(ddof=1) / 20
    assert (low, high) == (pytest.approx(mean - 1.96 * error, abs=0.01), pytest.approx(mean + 1.96 * error, abs=0.01))


def test_heads_with_equal_answers_have_a_zero_interval() -> None:
    assert paired_interval([np.zeros(50, int)] * 3, same_examples=True) == (0.0, 0.0)


def test_an_interval_stays_between_minus_one_and_one() -> None:
    low, high = paired_interval([np.ones(4, int), -np.ones(4, int)], same_examples=True)
    assert (low, high) == (-1.0, 1.0)


def test_intervals_are_reproducible_and_mirrored_when_heads_are_swapped() -> None:
    differences = drawn_differences(5, 100)
    first, again = (paired_interval(differences, same_examples=True) for _ in range(2))
    mirrored = paired_interval([-values for values in differences], same_examples=True)
    assert first == again
    assert mirrored == (pytest.approx(-first[1], abs=0.01), pytest.approx(-first[0], abs=0.01))


@pytest.mark.parametrize("same_examples", [True, False])
def test_intervals_of_few_seeds_cover_the_truth_as_often_as_promised(
    same_examples: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 repetitions with 400 examples and three seeds, whose differences have mean and deviation 10 points."""

    def held() -> float:
        random, truth, hits = np.random.default_rng(2), 0.1, 0
        for _ in range(400):
            shifts = random.normal(truth, 0.1, (3, 1))
            hard = random.normal(0, 0.4, (1 if same_examples else 3, 400))  # how much an example favours one head
            chance = random.uniform(-1, 1, (3, 400))
            differences = list(np.sign(chance + np.clip(hard + shifts, -1, 1)).astype(int))
            low, high = paired_interval(differences, same_examples=same_examples, replicates=1000)
            hits += low <= truth <= high
        return hits / 400

    assert held() >= 0.94
    monkeypatch.setattr(bootstrap, "seed_factor", lambda seeds: 1.0)
    assert held() < 0.9


def test_ten_seeds_of_ten_thousand_examples_need_little_memory() -> None:
    import tracemalloc

    differences = drawn_differences(10, 10_000)
    tracemalloc.start()
    paired_interval(differences, same_examples=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000
