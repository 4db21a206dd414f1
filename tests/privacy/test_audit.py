"""The curve test: bounds, curves and cuts against closed forms, and what it must never depend on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom, norm

from fedloom.core.events import GaussianDpEvent, LaplaceDpEvent, NonPrivateDpEvent
from fedloom.core.keys import Key
from fedloom.core.params import Vector
from fedloom.errors import ComponentError, PlanError
from fedloom.privacy.audit import LEVEL, Claim, bounds, claim_of, clopper_pearson, judge, most_epsilon

GAUSSIAN = claim_of(GaussianDpEvent(1.0), sums=1, most_epsilon=5.5)


def draws(name: str, releases: int, columns: int = 1) -> Vector:
    return Key.from_seed(3).child(name).generator().standard_normal((releases, columns))


@pytest.mark.parametrize("trials", [1, 7, 500, 2500])
@pytest.mark.parametrize("level", [LEVEL, 0.05])
def test_bounds_on_rates_are_the_quantiles_of_beta_laws(trials: int, level: float) -> None:
    hits = np.arange(trials + 1)
    low, high = clopper_pearson(hits, trials, level=level)
    assert low[0] == 0
    assert high[-1] == 1
    np.testing.assert_allclose(low[1:], beta.ppf(level, hits[1:], trials - hits[1:] + 1), rtol=1e-9)
    np.testing.assert_allclose(high[:-1], beta.isf(level, hits[:-1] + 1, trials - hits[:-1]), rtol=1e-9)


def test_bounds_are_wrong_as_seldom_as_they_say_whatever_the_rate() -> None:
    trials, level = 40, 0.05
    hits = np.arange(trials + 1)
    low, high = clopper_pearson(hits, trials, level=level)
    for rate in np.linspace(0.01, 0.99, 99):
        chances = binom.pmf(hits, trials, rate)
        assert chances[low > rate].sum() <= level
        assert chances[high < rate].sum() <= level


@pytest.mark.parametrize(("noise", "sums"), [(0.5, 1), (1.0, 2), (5.0, 2)])
def test_a_claim_of_gaussian_noise_is_its_closed_form(noise: float, sums: int) -> None:
    claim = claim_of(GaussianDpEvent(noise), sums=sums, most_epsilon=5.0)
    mu, epsilons = np.sqrt(sums) / noise, np.array(claim.epsilons)
    exact = norm.cdf(mu / 2 - epsilons / mu) - np.exp(epsilons) * norm.cdf(-mu / 2 - epsilons / mu)
    np.testing.assert_allclose(claim.deltas, exact, rtol=1e-8, atol=1e-15)


def test_what_a_claim_allows_is_the_best_test_between_the_two_laws() -> None:
    # Neyman and Pearson, for N(1, 1) against N(0, 1); beyond these rates the swapped worlds bind.
    rates = np.linspace(0.005, norm.cdf(-0.5), 90)
    best = norm.cdf(norm.ppf(rates) + 1.0)
    allowed = GAUSSIAN.allowed(rates)
    assert (allowed >= best - 1e-12).all()
    assert (allowed <= best + 1e-3).all()


def test_laplace_noise_claims_no_delta_behind_its_epsilon() -> None:
    claim = claim_of(LaplaceDpEvent(1.0), sums=1, most_epsilon=5.0)
    assert all(delta == 0 for epsilon, delta in zip(claim.epsilons, claim.deltas, strict=True) if epsilon > 1.0)
    assert claim.allowed(np.array([0.1]))[0] == pytest.approx(0.1 * np.e, rel=0.02)


def test_right_noise_is_not_rejected() -> None:
    """200 tests; a right one fails with probability 2e-4 at most, all together 4 %. Keys are fixed."""
    for repeat in range(200):
        kept, dropped = draws(f"kept {repeat}", 1000) + 1.0, draws(f"dropped {repeat}", 1000)
        assert not judge(kept, dropped, GAUSSIAN, delta=1e-5).rejected, repeat


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("column", [0, 2])
def test_less_noise_is_rejected_wherever_and_on_whichever_side_it_shows(sign: float, column: int) -> None:
    kept, dropped = draws("kept", 5000, 3), draws("dropped", 5000, 3)
    kept[:, column] /= 2.0
    dropped[:, column] /= 2.0
    kept[:, column] += sign
    verdict = judge(kept, dropped, GAUSSIAN, delta=1e-5)
    assert verdict.rejected
    assert {each.cut.statistic for each in verdict.counted} == {column}
    assert 1.0 < verdict.epsilon_low < most_epsilon(5000)


def test_a_claim_binds_in_both_directions() -> None:
    """Without the canary the release is one number, with it there is noise: only the world without tells."""
    kept, dropped = draws("kept", 1000), np.zeros((1000, 1))
    assert judge(kept, dropped, GAUSSIAN, delta=1e-5).rejected
    assert judge(dropped, kept, GAUSSIAN, delta=1e-5).rejected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_tells_as_much_as_one(value: float) -> None:
    verdict = judge(np.full((400, 1), value), draws("dropped", 400), GAUSSIAN, delta=0.0)
    assert verdict.rejected
    assert verdict.epsilon_low == pytest.approx(most_epsilon(400))


@pytest.mark.parametrize("values", [[0.0, 0.0], [np.inf, -np.inf], [np.nan, np.inf]])
def test_equal_worlds_show_nothing(values: list[float]) -> None:
    same = np.array(values * 200)[:, None]
    verdict = judge(same, same.copy(), GAUSSIAN, delta=1e-5)
    assert not verdict.rejected
    assert verdict.epsilon_low == 0


def test_cuts_are_fixed_on_the_first_half_alone() -> None:
    kept, dropped = draws("kept", 1000) / 2 + 1, draws("dropped", 1000) / 2
    first = judge(kept, dropped, GAUSSIAN, delta=1e-5)
    kept[500:], dropped[500:] = dropped[500:].copy(), kept[500:].copy()
    second = judge(kept, dropped, GAUSSIAN, delta=1e-5)
    assert [each.cut for each in first.counted] == [each.cut for each in second.counted]
    assert first.rejected
    assert not second.rejected


def test_worlds_apart_show_the_most_that_so_many_releases_can() -> None:
    kept, dropped = np.ones((5000, 1)), np.zeros((5000, 1))
    verdict = judge(kept, dropped, GAUSSIAN, delta=0.0)
    assert verdict.epsilon_low == pytest.approx(most_epsilon(5000))
    low, high = bounds(2500)
    assert most_epsilon(5000) == pytest.approx(float(np.log(low[-1] / high[0])))


def test_a_claim_that_nothing_could_break_says_so() -> None:
    assert GAUSSIAN.testable(1000)
    assert not claim_of(GaussianDpEvent(0.1), sums=1, most_epsilon=5.0).testable(1000)


def test_an_unprotected_release_claims_nothing() -> None:
    with pytest.raises(PlanError, match="no stage of the pipeline adds noise"):
        claim_of(NonPrivateDpEvent(), sums=1, most_epsilon=5.0)


@pytest.mark.parametrize(("kept", "dropped"), [((99, 1), (99, 1)), ((200, 1), (200, 2)), ((200,), (200,))])
def test_releases_that_cannot_be_compared_are_refused(kept: tuple[int, ...], dropped: tuple[int, ...]) -> None:
    with pytest.raises(ComponentError, match="expected equal shapes"):
        judge(np.zeros(kept), np.zeros(dropped), GAUSSIAN, delta=1e-5)


def test_too_few_releases_are_refused() -> None:
    with pytest.raises(ComponentError, match="99 releases: expected at least 100"):
        most_epsilon(99)


@pytest.mark.parametrize("delta", [-0.1, 1.0])
def test_a_delta_that_is_none_is_refused(delta: float) -> None:
    with pytest.raises(ComponentError, match="delta"):
        judge(np.zeros((200, 1)), np.zeros((200, 1)), GAUSSIAN, delta=delta)


def test_a_coarser_claim_rejects_less() -> None:
    rates = np.linspace(0.0, 1.0, 101)
    coarse = Claim(event=GAUSSIAN.event, sums=1, epsilons=GAUSSIAN.epsilons[::16], deltas=GAUSSIAN.deltas[::16])
    assert (coarse.allowed(rates) >= GAUSSIAN.allowed(rates)).all()
