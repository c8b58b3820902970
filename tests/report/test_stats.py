# SPDX-License-Identifier: MIT
"""Statistics against scipy and against values that can be worked out by hand."""
import math

import pytest
from scipy import stats as scipy_stats

from reports import stats


@pytest.mark.parametrize(
    "values, wanted",
    [
        ([3.0], 3.0),
        ([1.0, 9.0], 5.0),
        ([5.0, 1.0, 3.0], 3.0),
        ([1.0, math.inf, math.inf], math.inf),
        ([1.0, 2.0, math.inf], 2.0),
        ([1.0, math.inf], math.inf),
        ([math.inf] * 2, math.inf),
        ([-1.5e308, 1.5e308], 0.0),
    ],
)
def test_median(values, wanted):
    assert stats.median(values) == wanted


@pytest.mark.parametrize("share, wanted", [(50, 50), (90, 90), (99, 99), (100, 100), (0, 1)])
def test_percentile(share, wanted):
    assert stats.percentile([*range(100, 0, -1)], share) == wanted


def test_percentile_of_few_values_is_one_of_them():
    assert stats.percentile([4.0, 1.0, 2.0], 99) == 4.0 and stats.percentile([4.0, 1.0, 2.0], 50) == 2.0
    assert stats.percentile([], 50) is None


@pytest.mark.parametrize(
    "a, b", [([1, 2, 3], [4, 5, 6]), ([1.5, 2.2, 8.1, 3.3], [2.5, 9.9, 7.7, 6.1]), ([1, 5, 7, 11], [2, 3, 4])]
)
def test_mann_whitney_equals_scipy_exact(a, b):
    assert stats.mann_whitney(a, b) == pytest.approx(scipy_stats.mannwhitneyu(a, b, method="exact").pvalue)


def test_mann_whitney_known_values():
    assert stats.mann_whitney([1, 2, 3], [4, 5, 6]) == pytest.approx(0.1)
    assert stats.mann_whitney([1, 2, 3, 4], [5, 6, 7, 8]) == pytest.approx(2 / 70)
    assert stats.mann_whitney([1, 1, 1], [1, 1, 1]) == 1.0


def test_never_finished_ranks_last():
    assert stats.mann_whitney([math.inf] * 4, [20.0, 21.0, 22.0, 23.0]) == pytest.approx(2 / 70)
    assert stats.mann_whitney([math.inf] * 4, [math.inf] * 4) == 1.0


def test_mann_whitney_many_values():
    a, b = [float(i) for i in range(30)], [i + 4.5 for i in range(30)]
    assert stats.mann_whitney(a, b) == pytest.approx(
        scipy_stats.mannwhitneyu(a, b, method="asymptotic").pvalue, rel=0.1
    )


def test_bootstrap_interval():
    values = [10.0, 11.0, 12.0, 13.0, 14.0]
    low, high = stats.bootstrap_interval(values)
    assert 10 <= low < 12 < high <= 14
    assert stats.bootstrap_interval(values) == (low, high), "a report must repeat"
    assert stats.bootstrap_interval([1.0, 2.0]) is None
    assert stats.bootstrap_interval([1.0, 2.0, math.inf]) is None
    assert stats.bootstrap_interval([-1.7e308, 1.7e308, 1.0, 2.0]) is None, "beyond a float's range"


def test_bootstrap_of_a_ratio():
    off, on = [300.0, 310.0, 320.0], [60.0, 61.0, 62.0]
    low, high = stats.bootstrap_ratio(off, on)
    assert (low, high) == (300 / 62, 320 / 60), "with three a side, every ratio that the values allow"
    assert stats.bootstrap_ratio(off, on) == (low, high), "a report must repeat"
    assert stats.ratio_of_medians(off, on) == pytest.approx(310 / 61)
    inverse = stats.bootstrap_ratio(on, off)
    assert inverse == (pytest.approx(60 / 320), pytest.approx(62 / 300))
    same = stats.bootstrap_ratio([1.0, 2.0, 3.0, 4.0, 5.0], [1.1, 2.1, 2.9, 4.2, 4.8])
    assert same[0] < 1 < same[1]


def test_the_sides_of_a_ratio_are_drawn_apart():
    side = [1.0, 2.0, 4.0, 8.0]
    low, high = stats.bootstrap_ratio(side, side)
    assert low < 0.6 and high > 1.7, "drawn together every ratio would be 1"


@pytest.mark.parametrize(
    "a, b",
    [
        ([], []),
        ([1.0, 2.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [1.0, 2.0]),
        ([1.0, 2.0, math.inf], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [1.0, 2.0, math.inf]),
        ([1.0, 2.0, 3.0], [0.0, 2.0, 3.0]),
        ([0.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        ([-1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, math.nan], [1.0, 2.0, 3.0]),
        ([1e308] * 4, [1e-308] * 4),
        ([1e-308] * 3, [1e308] * 3),
    ],
)
def test_no_interval_of_a_ratio_that_may_not_be_there(a, b):
    assert stats.bootstrap_ratio(a, b) is None


@pytest.mark.parametrize(
    "a, b, wanted",
    [
        ([6.0], [2.0], 3.0),
        ([6.0, 6.0, math.inf], [2.0], 3.0),
        ([6.0], [0.0], None),
        ([0.0], [6.0], None),
        ([math.inf], [6.0], None),
        ([6.0], [math.inf], None),
        ([1e308], [1e-308], None),
        ([1e-308], [1e308], None),
        ([], [1.0], None),
    ],
)
def test_ratio_of_medians(a, b, wanted):
    assert stats.ratio_of_medians(a, b) == wanted


def test_fisher_and_poisson_known_values():
    assert stats.fisher(4, 4, 0, 4) == pytest.approx(2 / 70)
    assert stats.fisher(2, 4, 2, 4) == 1.0
    assert stats.poisson(10, 3, 0, 3) == pytest.approx(2 * 0.5**10)
    assert stats.poisson(0, 3, 0, 3) == 1.0
    assert stats.poisson(4, 2, 2, 1) == 1.0, "the same rate in unequal numbers of cells"


def test_bursts_are_not_poisson():
    assert stats.compare_counts([3, 4, 3], [0, 0, 0])[1] == "Poisson"
    assert stats.compare_counts([0, 60, 0, 1], [0, 0, 0, 0])[1] == "Mann-Whitney"
    assert stats.compare_counts([2.0**60] * 3, [2.0**60] * 3) == (1.0, "Mann-Whitney")


@pytest.mark.parametrize("compare", [stats.compare_numbers, stats.compare_counts, stats.compare_flags])
@pytest.mark.parametrize("a, b", [([1], [0]), ([1, 1], [0, 0]), ([1, 1, 1], [0, 0]), ([], [0, 0, 0])])
def test_nothing_is_compared_under_three(compare, a, b):
    assert compare(a, b) is None
