# SPDX-License-Identifier: MIT
"""The statistics of a comparison: few repeats, outcomes that include death, and no wish to see more than there is.

Tests are exact, because three to ten repeats are all that a crash test gets, and rank-based, because a cell that never
finished still has a rank (worse than any that did) although it has no number.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import stats

MIN_REPEATS = 3
ALPHA = 0.05
CONFIDENCE = 0.95
RESAMPLES = 4000
# Every way of dealing 8 + 8 values to two arms; above that the normal approximation is good.
MAX_DEALS = 12870
# Counts that vary more than this between repeats (variance over mean) come in bursts: no Poisson test for them.
MAX_DISPERSION = 2.0


def median(values: Sequence[float]) -> float:
    """The median; `inf` stands for "did not finish" and is never averaged with a real value."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    low, high = ordered[middle - 1], ordered[middle]
    if math.isinf(high):
        return high
    between = low + (high - low) / 2
    # The difference can leave a float's range where what lies between does not.
    return between if math.isfinite(between) else low / 2 + high / 2


def percentile(values: Sequence[float], share: float) -> float | None:
    """By nearest rank, so that it is a value which was measured; of fewer than 100 the 99th is the largest."""
    return sorted(values)[max(1, math.ceil(share * len(values) / 100)) - 1] if values else None


def _resampled_medians(generator: np.random.Generator, values: Sequence[float]) -> np.ndarray:
    return np.median(generator.choice(np.asarray(values, dtype=float), size=(RESAMPLES, len(values))), axis=1)


def _percentiles(draws: np.ndarray) -> tuple[float, float] | None:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return (float(low), float(high)) if math.isfinite(low) and math.isfinite(high) else None


def bootstrap_interval(values: Sequence[float], seed: int = 1) -> tuple[float, float] | None:
    """The percentile interval of the median, or nothing under three repeats; the seed is fixed, a report repeats."""
    if len(values) < MIN_REPEATS or not all(math.isfinite(v) for v in values):
        return None
    # Figures of a damaged record can leave a float's range in the middle of it, here and below.
    with np.errstate(all="ignore"):
        return _percentiles(_resampled_medians(np.random.default_rng(seed), values))


def ratio_of_medians(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Median of `a` over that of `b`; nothing where one of them is not above zero or did not finish."""
    if not a or not b:
        return None
    over, under = median(a), median(b)
    if not (0 < over < math.inf and 0 < under < math.inf):
        return None
    ratio = over / under
    return ratio if 0 < ratio < math.inf else None


def bootstrap_ratio(a: Sequence[float], b: Sequence[float], seed: int = 1) -> tuple[float, float] | None:
    """The percentile interval of the ratio of medians, `a` over `b`, each side drawn from its own repeats.

    Nothing under three repeats a side, and nothing where any value is not above zero or did not finish: some draws
    would then have no ratio, and to leave those out would be to leave out the worst cells. With three a side it reaches
    over every ratio that the values allow and still contains the true one in nine of ten cases only; with five it keeps
    its promise (simulated with log-normal values). The rank test's p stands beside it and knows.
    """
    if not enough(a, b) or not all(0 < value < math.inf for value in (*a, *b)):
        return None
    generator = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        over, under = _resampled_medians(generator, a), _resampled_medians(generator, b)
        interval = _percentiles(over / under)
    return interval if interval and interval[0] > 0 else None


def few_deals(n_a: int, n_b: int) -> bool:
    """Whether every way of dealing the values to two arms can be looked at."""
    return math.comb(n_a + n_b, n_a) <= MAX_DEALS


def permutation(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided exact p: the share of all deals in which the sum of `a` lies as far from what is expected as here."""
    scores = [*a, *b]
    expected = len(a) * sum(scores) / len(scores)
    seen = abs(sum(a) - expected)
    deals = [abs(sum(deal) - expected) for deal in combinations(scores, len(a))]
    return sum(1 for other in deals if other >= seen - 1e-9) / len(deals)


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of the rank-sum test, exact also with ties and with values that are infinite."""
    ranks = stats.rankdata([*a, *b])
    if few_deals(len(a), len(b)):
        return permutation(ranks[: len(a)], ranks[len(a) :])
    return float(stats.mannwhitneyu(ranks[: len(a)], ranks[len(a) :], alternative="two-sided").pvalue)


def fisher(yes_a: int, n_a: int, yes_b: int, n_b: int) -> float:
    """Two-sided p that two arms share one share of cells with the outcome."""
    return float(stats.fisher_exact([[yes_a, n_a - yes_a], [yes_b, n_b - yes_b]])[1])


def poisson(count_a: int, n_a: int, count_b: int, n_b: int) -> float:
    """Two-sided exact p that two arms share one rate of events a cell."""
    total = count_a + count_b
    return float(stats.binomtest(count_a, total, n_a / (n_a + n_b)).pvalue) if total else 1.0


def dispersion(values: Sequence[float]) -> float:
    """Variance over mean; 1 for a Poisson process, more where one event brings the next."""
    mean = float(np.mean(values))
    return float(np.var(values, ddof=1)) / mean if mean else 0.0


def enough(a: Sequence[object], b: Sequence[object]) -> bool:
    """Whether anything may be called a difference at all."""
    return min(len(a), len(b)) >= MIN_REPEATS


def compare_numbers(a: Sequence[float], b: Sequence[float]) -> tuple[float, str] | None:
    """p and the name of the test, or nothing under three repeats an arm."""
    return (mann_whitney(a, b), "Mann-Whitney") if enough(a, b) else None


def compare_counts(a: Sequence[float], b: Sequence[float]) -> tuple[float, str] | None:
    """Events: Poisson where they are independent, ranks where a cell has them in bursts (kills in one storm do)."""
    if not enough(a, b):
        return None
    # Above 2^53 a float no longer counts one by one.
    if max(dispersion(a), dispersion(b)) > MAX_DISPERSION or max(*a, *b) > 2**53:
        return mann_whitney(a, b), "Mann-Whitney"
    return poisson(int(sum(a)), len(a), int(sum(b)), len(b)), "Poisson"


def compare_flags(a: Sequence[bool], b: Sequence[bool]) -> tuple[float, str] | None:
    """Yes or no a cell."""
    return (fisher(sum(a), len(a), sum(b), len(b)), "Fisher") if enough(a, b) else None
