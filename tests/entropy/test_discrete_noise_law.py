"""Laws of discrete noise: frequencies, last bits, mean and variance against the exact ones.

With keys drawn anew each assertion would fail by chance with probability 1e-4; the keys are fixed, so it does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import chi2, norm

from fedloom.core.keys import Key
from fedloom.entropy.discrete_noise import discrete_gaussian, discrete_laplace
from fedloom.entropy.secret import derived_secret

ALARM = 1e-4
SECRET = derived_secret(Key.from_seed(11)).child("law")
VARIANCES = [
    Fraction(1, 4),
    Fraction(1, 2),
    Fraction(1),
    Fraction(25, 4),
    Fraction(16),
    Fraction(256),
    Fraction(2500),
    Fraction(10**6 + 1, 3),
    Fraction(10**6),
    Fraction(4096**2),
    Fraction(27_553**2),
]
SCALES = [Fraction(1, 3), Fraction(1), Fraction(5, 2), Fraction(40), Fraction(1001, 7), Fraction(2000)]
QUICK, MANY = 20_000, 1_000_000
Law = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def gaussian_law(variance: Fraction) -> Law:
    """The integers within 12 sigma, and their probabilities: right to 1e-14 or so."""
    values = np.arange(-(reach := math.ceil(12 * math.sqrt(variance)) + 2), reach + 1)
    weights = np.exp(-(values.astype(np.float64) ** 2) / (2 * float(variance)))
    return values, weights / weights.sum()


def laplace_law(scale: Fraction) -> Law:
    values = np.arange(-(reach := math.ceil(40 * scale) + 2), reach + 1)
    weights = np.exp(-np.abs(values) / float(scale))
    return values, weights / weights.sum()


def p_of_counts(seen: npt.NDArray[np.int64], likely: npt.NDArray[np.float64]) -> float:
    """Pearson's chi-square; cells are merged in their order until each expects ten."""
    expected = likely * seen.sum()
    cell = np.floor(np.cumsum(expected) / max(10.0, seen.sum() / 200)).astype(np.int64)
    cells = np.unique(cell, return_inverse=True)[1]
    observed = np.bincount(cells, weights=seen)
    expected = np.bincount(cells, weights=expected)
    thin = expected < 5  # the last cell, and cells beside one likely value
    observed = np.append(observed[~thin], observed[thin].sum())
    expected = np.append(expected[~thin], expected[thin].sum())
    if expected[-1] < 5:
        observed, expected = (np.append(part[:-2], part[-2:].sum()) for part in (observed, expected))
    return float(chi2.sf(((observed - expected) ** 2 / expected).sum(), len(expected) - 1))


def p_of_law(drawn: npt.NDArray[np.int64], law: Law) -> float:
    values, likely = law
    assert values[0] <= drawn.min()
    assert drawn.max() <= values[-1]  # beyond with probability below 1e-17 a number
    return p_of_counts(np.bincount(drawn - values[0], minlength=len(values)), likely)


def p_of_last_bits(drawn: npt.NDArray[np.int64], law: Law) -> float:
    values, likely = law
    bits = np.bincount(values & 15, weights=likely, minlength=16).astype(np.float64)
    return p_of_counts(np.bincount(drawn & 15, minlength=16), bits)


def p_of_moment(drawn: npt.NDArray[np.int64], law: Law, order: int) -> float:
    """Two-sided, by the normal limit: the exact variance of x**order is known."""
    values, likely = law
    powers = values.astype(np.float64) ** order
    mean = (powers * likely).sum()
    deviation = math.sqrt((((powers - mean) ** 2) * likely).sum() / len(drawn))
    return float(2 * norm.sf(abs((drawn.astype(np.float64) ** order).mean() - mean) / deviation))


def check(drawn: npt.NDArray[np.int64], law: Law) -> None:
    assert p_of_law(drawn, law) > ALARM
    assert p_of_last_bits(drawn, law) > ALARM
    assert p_of_moment(drawn, law, 1) > ALARM
    assert p_of_moment(drawn, law, 2) > ALARM


@pytest.mark.parametrize("variance", VARIANCES, ids=str)
def test_the_gaussian_has_its_law(variance: Fraction) -> None:
    check(discrete_gaussian(SECRET.child(str(variance)), variance, QUICK), gaussian_law(variance))


@pytest.mark.slow
@pytest.mark.parametrize("variance", VARIANCES, ids=str)
def test_a_million_gaussian_numbers_have_their_law(variance: Fraction) -> None:
    check(discrete_gaussian(SECRET.child("many", str(variance)), variance, MANY), gaussian_law(variance))


@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_the_laplace_has_its_law(scale: Fraction) -> None:
    check(discrete_laplace(SECRET.child("laplace", str(scale)), scale, QUICK), laplace_law(scale))


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES, ids=str)
def test_a_million_laplace_numbers_have_their_law(scale: Fraction) -> None:
    check(discrete_laplace(SECRET.child("many laplace", str(scale)), scale, MANY), laplace_law(scale))


def test_a_public_key_gives_the_same_law() -> None:
    """Simulation may draw from the run's key; what differs is who can recompute it."""
    check(discrete_gaussian(Key.from_seed(3).child("noise"), Fraction(49, 9), QUICK), gaussian_law(Fraction(49, 9)))


def test_the_variance_is_below_the_parameter_where_the_grid_is_coarse() -> None:
    """At sigma = 0.5 by 14 %: what is compared above is the exact variance, not sigma**2."""
    values, likely = gaussian_law(Fraction(1, 4))
    assert float((values**2 * likely).sum()) == pytest.approx(0.86 / 4, rel=1e-3)
    values, likely = gaussian_law(Fraction(1))
    assert 1e-7 < 1 - float((values**2 * likely).sum()) < 3e-7


def test_neighbouring_draws_are_not_correlated() -> None:
    """False alarm 1e-4: streams of neighbouring paths, and neighbours in one draw."""
    one, other = (discrete_gaussian(SECRET.child("round", i), 10**6, QUICK) for i in (1, 2))
    for left, right in ((one, other), (one[:-1], one[1:])):
        correlation = np.corrcoef(left, right)[0, 1]
        assert 2 * norm.sf(abs(correlation) * math.sqrt(len(left))) > ALARM


def rounded_normal(sigma: float) -> npt.NDArray[np.int64]:
    return np.rint(sigma * np.random.default_rng(1).standard_normal(QUICK)).astype(np.int64)


def with_two_zeros(variance: int) -> npt.NDArray[np.int64]:
    drawn = discrete_gaussian(SECRET.child("zeros"), variance, QUICK)
    return np.insert(drawn, np.flatnonzero(drawn == 0), 0)[:QUICK]


def with_a_wrapped_square(variance: int) -> npt.NDArray[np.int64]:
    """Numbers beyond 2.5 sigma are never kept: what a square that wraps can do."""
    drawn = discrete_gaussian(SECRET.child("wrapped"), variance, QUICK)
    return drawn[2 * np.abs(drawn) <= 5 * math.isqrt(variance)]


@pytest.mark.parametrize(
    ("wrong", "variance"),
    [
        (lambda: rounded_normal(0.5), Fraction(1, 4)),
        (lambda: rounded_normal(0.7), Fraction(49, 100)),
        (lambda: with_two_zeros(4), Fraction(4)),
        (lambda: with_a_wrapped_square(4096**2), Fraction(4096**2)),
        (lambda: discrete_gaussian(SECRET, 9, QUICK), Fraction(10)),
        (lambda: discrete_laplace(SECRET, Fraction(707, 1000), QUICK), Fraction(1)),
        (lambda: 2 * discrete_gaussian(SECRET, 2500, QUICK), Fraction(10**4)),
        (lambda: np.abs(discrete_gaussian(SECRET, 100, QUICK)), Fraction(100)),
    ],
    ids=["rounded 0.5", "rounded 0.7", "two zeros", "cut off", "9 for 10", "laplace", "even", "no sign"],
)
def test_another_law_is_noticed(wrong: Callable[[], npt.NDArray[np.int64]], variance: Fraction) -> None:
    """The tests above have the power to fail: each wrong sampler is rejected by one of them."""
    drawn = wrong()
    with pytest.raises(AssertionError):
        check(drawn, gaussian_law(variance))
