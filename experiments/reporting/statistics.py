"""What a few seeds can say: intervals and tests by Student's t, Holm's correction, factorial effects, Pareto fronts."""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
"""Of all intervals: how often they hold what they estimate."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; one seed alone has none, and no p value."""

    mean: float
    low: float | None
    high: float | None
    p: float | None
    """Two-sided: how often a mean so far from 0 would come of seeds alone, were the true one 0."""
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of independent values with its interval and p value, by Student's t ("Student" 1908)."""
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Estimate(mean, None, None, None, n)
    error = float(np.std(values, ddof=1)) / math.sqrt(n)
    half = t_quantile((1 + LEVEL) / 2, n - 1) * error
    t = mean / error if error else math.copysign(math.inf, mean) if mean else 0.0
    return Estimate(mean, mean - half, mean + half, 2 * (1 - t_cdf(abs(t), n - 1)), n)


def t_cdf(t: float, degrees: int) -> float:
    """Student's t distribution function, by the incomplete beta function (NIST DLMF 8.17; Abramowitz, Stegun 26.7)."""
    if math.isinf(t):
        return float(t > 0)
    tail = beta_ratio(degrees / 2, 0.5, degrees / (degrees + t * t)) / 2
    return 1 - tail if t > 0 else tail


@functools.cache
def t_quantile(p: float, degrees: int) -> float:
    """The t that a share p of Student's distribution lies below, by bisection of `t_cdf`; 0 < p < 1."""
    if p < 0.5:
        return -t_quantile(1 - p, degrees)
    low, high = 0.0, 1.0
    while t_cdf(high, degrees) < p:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, degrees) < p else (low, middle)
    return (low + high) / 2


def beta_ratio(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (NIST DLMF 8.17.22).

    The fraction converges quickly for x below (a + 1) / (a + b + 2); above, I_x(a, b) = 1 - I_{1-x}(b, a).
    """
    if x in (0, 1):
        return float(x)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_ratio(b, a, 1 - x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    fraction = 0.0
    for m in range(80, 0, -1):  # from the inside out; terms that are 0 to rounding come first
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        fraction = even / (1 + odd / (1 + fraction))
    first = -(a + b) * x / (a + 1)
    return math.exp(front) / a / (1 + first / (1 + fraction))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number, in the same order (Holm 1979): below 5%, one false find in 20 reports."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def effects(losses: Mapping[tuple[bool, ...], Mapping[int, float]]) -> dict[tuple[int, ...], Estimate]:
    """Main effects and interactions of a complete 2^k factorial, each a contrast of every seed, then over seeds.

    A main effect is the mean with a factor on less the mean with it off. An interaction of two is half of what the
    effect of one changes by when the other is switched on; of three, half of what that interaction changes by, and so
    on: contrasts of Yates, all over 2^(k-1) (Box, Hunter and Hunter 2005, ch. 5).

    Args:
        losses: by which factors are on, then by seed; only seeds that all cells have count.
    Returns: by the factors' numbers, `(0,)` or `(0, 2)`, main effects first.
    """
    k = len(next(iter(losses)))
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in losses.values())))
    found = {}
    for order in range(1, k + 1):
        for factors in itertools.combinations(range(k), order):
            signs = {cell: math.prod(1 if cell[factor] else -1 for factor in factors) for cell in losses}
            contrasts = [
                math.fsum(sign * losses[cell][seed] for cell, sign in signs.items()) / 2 ** (k - 1) for seed in seeds
            ]
            found[factors] = estimate(contrasts)
    return found


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of (cost, loss) no other one beats: cheaper or as cheap, and better or as good; by rising cost."""
    front, best = [], math.inf
    for i in sorted(range(len(points)), key=lambda i: points[i]):
        if points[i][1] < best:
            front.append(i)
            best = points[i][1]
    return front


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation; equal values share the mean of their ranks."""
    ranks = [[sum(a < b for a in values) + sum(a == b for a in values) / 2 for b in values] for values in (x, y)]
    return float(np.corrcoef(ranks)[0, 1])
