"""What a report calls a difference is one, as often as it says."""

import itertools
import math

import numpy as np
import pytest

from experiments.reporting import scaling, statistics

NUM_SWEEPS = 1000


def binomial_error(p):
    """Three standard deviations of a share of the simulated sweeps."""
    return 3 * math.sqrt(p * (1 - p) / NUM_SWEEPS)


@pytest.mark.parametrize(
    ("degrees", "p", "published"),
    [  # Student's table as every textbook prints it
        *[(1, 0.975, 12.706), (2, 0.975, 4.303), (3, 0.975, 3.182), (4, 0.975, 2.776), (5, 0.975, 2.571)],
        *[(9, 0.975, 2.262), (30, 0.975, 2.042), (120, 0.975, 1.980), (1, 0.995, 63.657), (4, 0.995, 4.604)],
        *[(2, 0.9, 1.886), (10, 0.9995, 4.587), (4, 0.025, -2.776)],
    ],
)
def test_quantiles_are_those_of_the_published_table(degrees, p, published):
    assert abs(statistics.t_quantile(p, degrees) - published) <= 5.001e-4


@pytest.mark.parametrize("degrees", [1, 2, 3, 7, 30, 400])
def test_the_distribution_is_the_integral_of_its_density(degrees):
    constant = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    for t in (0.01, 0.5, 1.0, 3.0, 12.0):
        x = np.linspace(0, t, 40_001)
        density = constant * (1 + x * x / degrees) ** (-(degrees + 1) / 2)
        simpson = (x[1] / 3) * (density[0] + 4 * density[1::2].sum() + 2 * density[2:-1:2].sum() + density[-1])
        assert abs(statistics.t_cdf(t, degrees) - 0.5 - simpson) < 1e-12
        assert abs(statistics.t_cdf(-t, degrees) - 0.5 + simpson) < 1e-12


def test_corrected_p_values_are_holms():
    # By hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, and the last, which is no smaller than the one before.
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, 0.6]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_one_seed_has_no_interval_and_equal_ones_a_sure_one():
    assert statistics.estimate([1.5]) == statistics.Estimate(1.5, None, None, None, 1)
    assert statistics.estimate([1.5, 1.5]) == statistics.Estimate(1.5, 1.5, 1.5, 0.0, 2)
    assert statistics.estimate([0.0, 0.0]).p == 1.0


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_intervals_hold_the_truth_95_times_in_100(num_seeds):
    draws = np.random.default_rng(num_seeds).normal(1.4, 0.01, (NUM_SWEEPS, num_seeds))
    found = [statistics.estimate(row) for row in draws]
    covered = np.mean([one.low <= 1.4 <= one.high for one in found])
    assert abs(covered - 0.95) < binomial_error(0.05)
    # The p value is the level at which the interval just reaches 0.
    assert all((one.p < 0.05) == (one.low > 0 or one.high < 0) for one in map(statistics.estimate, draws - 1.4))


def factorial(rng, effects, num_seeds=3, noise=0.01):
    """Losses by cell and seed: seeds have their own level, cells what `effects` gives to sets of factors."""
    levels = rng.normal(0, noise, num_seeds)

    def loss(cell, seed):
        signed = [size * math.prod(1 if cell[f] else -1 for f in factors) / 2 for factors, size in effects.items()]
        return 1.5 + levels[seed] + math.fsum(signed) + rng.normal(0, noise)

    cells = itertools.product((False, True), repeat=4)
    return {cell: {seed: loss(cell, seed) for seed in range(num_seeds)} for cell in cells}


def test_effects_of_noiseless_sweeps_are_exact_and_least_squares_finds_the_same():
    rng = np.random.default_rng(0)
    true = {(0,): -0.02, (1,): 0.04, (2,): 0.01, (0, 1): -0.03, (1, 2, 3): 0.005}
    cells = factorial(rng, true, noise=0.0)
    found = statistics.effects(cells)
    assert len(found) == 15
    for factors, one in found.items():
        assert one.mean == pytest.approx(true.get(factors, 0.0), abs=1e-15 * 64)
    signs = np.array([[math.prod(1 if cell[f] else -1 for f in factors) for factors in ((), *found)] for cell in cells])
    noisy = factorial(rng, true)
    means = np.array([np.mean(list(by_seed.values())) for by_seed in noisy.values()])
    fitted = 2 * np.linalg.lstsq(signs.astype(float), means, rcond=None)[0][1:]
    assert np.allclose([one.mean for one in statistics.effects(noisy).values()], fitted, rtol=0, atol=1e-14)


def test_of_sweeps_without_effects_one_in_twenty_reports_one_and_intervals_cover():
    rng = np.random.default_rng(1)
    sweeps = [list(statistics.effects(factorial(rng, {})).values()) for _ in range(NUM_SWEEPS)]
    wrong = np.mean([min(statistics.holm([one.p for one in found])) < 0.05 for found in sweeps])
    # Contrasts are independent, so that Holm's first test of 15 makes it a little less than 5%.
    assert abs(wrong - (1 - (1 - 0.05 / 15) ** 15)) < binomial_error(0.05)
    single = np.mean([found[4].p < 0.05 for found in sweeps])
    assert abs(single - 0.05) < binomial_error(0.05)


def test_differences_from_one_baseline_are_wrongly_found_in_at_most_one_sweep_of_twenty():
    rng = np.random.default_rng(2)
    losses_SCR = rng.normal(1.5, 0.01, (NUM_SWEEPS, 6, 5)) + rng.normal(0, 0.05, (NUM_SWEEPS, 1, 5))
    wrong = 0
    for losses_CR in losses_SCR:
        p_values = [statistics.estimate(other - losses_CR[0]).p for other in losses_CR[1:]]
        wrong += min(statistics.holm(p_values)) < 0.05
    # They share the baseline, which makes the correction a little too strict.
    assert 0.05 / 5 < wrong / NUM_SWEEPS < 0.05 + binomial_error(0.05)


def test_an_effect_ten_times_the_noise_is_found():
    rng = np.random.default_rng(3)
    found = [statistics.effects(factorial(rng, {(2,): 0.1, (0, 1): -0.1}, num_seeds=5)) for _ in range(100)]
    for one in found:
        corrected = dict(zip(one, statistics.holm([each.p for each in one.values()]), strict=True))
        assert corrected[2,] < 0.05
        assert corrected[0, 1] < 0.05
    assert np.mean([one[2,].low <= 0.1 <= one[2,].high for one in found]) > 0.85


def test_effects_take_the_seeds_that_all_cells_have():
    cells = factorial(np.random.default_rng(4), {(0,): 1.0}, num_seeds=4)
    cells[True, True, True, True].pop(2)
    assert statistics.effects(cells)[0,].n == 3


def test_a_front_is_what_no_other_one_beats():
    rng = np.random.default_rng(5)
    points = [tuple(map(float, point)) for point in rng.integers(0, 12, (60, 2))]
    front = {points[i] for i in statistics.pareto_front(points)}
    beaten = {one for one in points for other in points if other != one and other[0] <= one[0] and other[1] <= one[1]}
    assert front == set(points) - beaten
    costs = [points[i][0] for i in statistics.pareto_front(points)]
    assert costs == sorted(set(costs))


def law(sizes, noise=0.0, seed=0):
    return 1.05 + 0.25 * (sizes / 1e6) ** -0.3 + np.random.default_rng(seed).normal(0, noise, len(sizes))


SIZES = np.repeat([1e5, 3e5, 1e6, 3e6, 1e7], 2)


def test_the_numbers_of_a_law_are_found_again():
    found = scaling.fit(SIZES, law(SIZES))
    # The exponents that are tried lie 1.5% apart.
    assert found.c.mean == pytest.approx(0.3, rel=0.0076)
    assert found.a.mean == pytest.approx(1.05, abs=0.003)
    assert found.b.mean * (1e6 / found.unit) ** -found.c.mean == pytest.approx(0.25, abs=0.003)
    assert np.allclose(found(SIZES), law(SIZES), rtol=0, atol=5e-4)


def test_a_bootstrap_interval_holds_the_exponent_about_95_times_in_100():
    found = [scaling.fit(SIZES, law(SIZES, 0.005, seed)).c for seed in range(30)]
    covered = np.mean([one.low <= 0.3 <= one.high for one in found])
    assert 0.95 - 3 * math.sqrt(0.05 * 0.95 / 30) < covered


def test_a_law_has_no_floor_below_nothing_and_no_rising_arm():
    sizes = np.array([1.0, 2.0, 4.0, 8.0])
    assert scaling.fit(sizes, 2.0 - 0.3 * np.log2(sizes)).a.mean >= 0
    rising = scaling.fit(sizes, sizes)
    assert rising.b.mean == 0
    assert rising.a.mean == pytest.approx(sizes.mean())
    with pytest.raises(ValueError, match="3 sizes: a scaling law takes at least 4"):
        scaling.fit(sizes[:3], sizes[:3])
