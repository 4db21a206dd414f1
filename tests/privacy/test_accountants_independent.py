"""Every figure against a composition by other code: see independent.py."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fedloom.core.events import (
    ComposedDpEvent,
    DpEvent,
    GaussianDpEvent,
    LaplaceDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
    TruncatedPoissonSampledDpEvent,
)
from fedloom.privacy.accountants import delta_of, epsilon
from fedloom.privacy.guarantee import Adjacency

WITHIN = 1e-3

POISSON: list[tuple[float, float, int, float]] = [
    # rate, noise over clip, rounds, delta
    (0.01, 1.0, 1, 1e-5),
    (0.05, 1.0, 1, 1e-5),
    (0.01, 1.0, 1000, 1e-5),
    (0.01, 4.0, 10_000, 1e-5),
    (0.1, 2.0, 100, 1e-5),
    (0.001, 4.0, 10_000, 1e-6),
    (0.5, 3.0, 50, 1e-5),
    (0.2, 5.0, 1000, 1e-6),
    (0.05, 0.8, 30, 1e-4),
    (0.1, 1.5, 300, 1e-8),
]
LARGE = (0.001, 0.7, 500, 1e-6)  # losses up to 8 in steps of 6e-5
PLAIN = [(1.0, 1, 1e-5), (2.0, 10, 1e-5), (10.0, 100, 1e-6), (0.5, 3, 1e-3), (50.0, 5, 1e-8)]


def poisson_rounds(rate: float, noise: float, rounds: int) -> DpEvent:
    return SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), rounds)


@pytest.mark.parametrize("adjacency", ["zero_out", "add_remove", "replace_one"])
@pytest.mark.parametrize("setting", [*POISSON, pytest.param(LARGE, marks=pytest.mark.slow)], ids=str)
def test_gaussian_noise_on_a_poisson_sample_costs_what_an_own_fft_says(
    independent: Any, setting: tuple[float, float, int, float], adjacency: Adjacency
) -> None:
    rate, noise, rounds, delta = setting
    if adjacency == "add_remove":  # the same pairs as zero_out: no second composition, the same figure
        same = epsilon(poisson_rounds(rate, noise, rounds), delta=delta, adjacency="zero_out", method="pld")
        assert epsilon(poisson_rounds(rate, noise, rounds), delta=delta, adjacency=adjacency, method="pld") == same
        return
    found = epsilon(poisson_rounds(rate, noise, rounds), delta=delta, adjacency=adjacency, method="pld")
    expected = independent.epsilon_of_pairs(independent.poisson_pairs(rate, noise, adjacency), rounds, delta=delta)
    assert found == pytest.approx(expected, rel=WITHIN)


@pytest.mark.parametrize("setting", [POISSON[0], POISSON[1], POISSON[8], (0.5, 3.0, 10, 1e-5)], ids=str)
@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one"])
def test_few_rounds_lie_between_losses_rounded_down_and_losses_rounded_up(
    independent: Any, setting: tuple[float, float, int, float], adjacency: Adjacency
) -> None:
    rate, noise, rounds, delta = setting
    pairs = independent.poisson_pairs(rate, noise, adjacency)
    below, above = (
        independent.epsilon_of_pairs(pairs, rounds, delta=delta, side=side, finest=1 / 500)
        for side in ("below", "above")
    )
    found = epsilon(poisson_rounds(rate, noise, rounds), delta=delta, adjacency=adjacency, method="pld")
    assert below <= found <= above * 1.0005
    assert above / below < 1.03


@pytest.mark.parametrize("adjacency", ["zero_out", "add_remove", "replace_one"])
@pytest.mark.parametrize("setting", PLAIN, ids=str)
@pytest.mark.parametrize("method", ["best", "pld", "rdp"])
def test_plain_gaussian_noise_is_never_below_the_closed_form(
    independent: Any, setting: tuple[float, int, float], adjacency: Adjacency, method: Any
) -> None:
    noise, rounds, delta = setting
    mu = (2 if adjacency == "replace_one" else 1) * math.sqrt(rounds) / noise
    event = SelfComposedDpEvent(GaussianDpEvent(noise), rounds)
    found = epsilon(event, delta=delta, adjacency=adjacency, method=method)
    exact = independent.analytic_epsilon(mu, delta)
    assert found >= exact * (1 - 1e-10)
    if method != "rdp":
        assert found == pytest.approx(exact, rel=1e-9)
        assert delta_of(event, epsilon=exact, adjacency=adjacency, method=method) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize("setting", [(1.0, 10.0, 10, 1e-5), (0.1, 2.0, 20, 1e-5), (0.5, 5.0, 100, 1e-6)], ids=str)
def test_laplace_noise_costs_what_an_own_fft_says(independent: Any, setting: tuple[float, float, int, float]) -> None:
    rate, scale, rounds, delta = setting
    event = SelfComposedDpEvent(PoissonSampledDpEvent(rate, LaplaceDpEvent(scale)), rounds)
    found = epsilon(event, delta=delta, adjacency="zero_out", method="pld")
    pairs = independent.laplace_pairs(rate, scale)[: 1 if rate == 1 else 2]
    assert found == pytest.approx(independent.epsilon_of_pairs(pairs, rounds, delta=delta), rel=WITHIN)


def test_under_replace_one_laplace_noise_counts_for_half(independent: Any) -> None:
    event = SelfComposedDpEvent(LaplaceDpEvent(20.0), 10)
    pairs = independent.laplace_pairs(1.0, 10.0)[:1]
    found = epsilon(event, delta=1e-5, adjacency="replace_one", method="pld")
    assert found == pytest.approx(independent.epsilon_of_pairs(pairs, 10, delta=1e-5), rel=WITHIN)


def test_different_rounds_compose(independent: Any) -> None:
    event = ComposedDpEvent(
        (poisson_rounds(0.02, 1.2, 200), SelfComposedDpEvent(GaussianDpEvent(8.0), 4), poisson_rounds(0.1, 3.0, 50))
    )
    width = 2e-4
    one, two = (
        [independent.on_grid(pair, width) for pair in independent.poisson_pairs(rate, noise, "zero_out")]
        for rate, noise in ((0.02, 1.2), (0.1, 3.0))
    )
    plain = independent.on_grid(independent.gaussian_mixtures(upper=[(1.0, 1.0)], lower=[(1.0, 0.0)], z=8.0), width)
    expected = max(
        independent.epsilon_at(independent.composed([(one[way], 200), (plain, 4), (two[way], 50)]), 1e-5)
        for way in (0, 1)
    )
    assert epsilon(event, delta=1e-5, adjacency="add_remove", method="pld") == pytest.approx(expected, rel=WITHIN)


def test_two_releases_of_one_sample_are_one_release_of_less_noise(independent: Any) -> None:
    pair = ComposedDpEvent((GaussianDpEvent(2.0), GaussianDpEvent(3.0)))
    event = SelfComposedDpEvent(PoissonSampledDpEvent(0.05, pair), 100)
    together = (2.0**-2 + 3.0**-2) ** -0.5
    pairs = independent.poisson_pairs(0.05, together, "zero_out")
    found = epsilon(event, delta=1e-5, adjacency="zero_out", method="pld")
    assert found == pytest.approx(independent.epsilon_of_pairs(pairs, 100, delta=1e-5), rel=WITHIN)


TRUNCATED = [(0.01, 10_000, 110, 1.0, 1000), (0.3, 20, 8, 2.0, 20), (0.05, 1000, 80, 1.5, 100)]


@pytest.mark.parametrize("setting", TRUNCATED, ids=str)
@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one"])
def test_a_truncated_poisson_sample_costs_the_mixture_of_cut_and_uncut_rounds(
    independent: Any, setting: tuple[float, int, int, float, int], adjacency: Adjacency
) -> None:
    rate, population, most, noise, rounds = setting
    cut, chosen = cut_rounds(rate, population, most)
    # A cut round without the unit has another unit in its place: twice the distance, in both directions.
    worst = independent.poisson_pairs(chosen, noise / 2, "replace_one")[0]
    width = 4e-4
    expected = max(
        independent.epsilon_at(
            independent.composed(
                [
                    (
                        independent.merged(
                            [(cut, independent.on_grid(worst, width)), (1 - cut, independent.on_grid(pair, width))]
                        ),
                        rounds,
                    )
                ]
            ),
            1e-5,
        )
        for pair in independent.poisson_pairs(rate, noise, adjacency)
    )
    event = SelfComposedDpEvent(TruncatedPoissonSampledDpEvent(rate, population, most, GaussianDpEvent(noise)), rounds)
    assert epsilon(event, delta=1e-5, adjacency=adjacency, method="pld") == pytest.approx(expected, rel=WITHIN)


@pytest.mark.parametrize("others", [-1.0, 0.0, 1.0])
def test_no_pair_of_small_populations_costs_more_than_a_truncated_sample_is_charged(
    independent: Any, others: float
) -> None:
    rate, population, most, noise = 0.3, 20, 8, 2.0

    def sums(own: float) -> list[tuple[float, float]]:
        parts = []
        for drawn in range(population):
            chance = math.comb(population - 1, drawn) * rate**drawn * (1 - rate) ** (population - 1 - drawn)
            kept = min(1.0, most / (drawn + 1))
            parts.append((chance * (1 - rate * kept), others * min(drawn, most)))
            parts.append((chance * rate * kept, own + others * min(drawn, most - 1)))
        return parts

    event = TruncatedPoissonSampledDpEvent(rate, population, most, GaussianDpEvent(noise))
    for rounds in (1, 20):
        charged = epsilon(SelfComposedDpEvent(event, rounds), delta=1e-5, adjacency="zero_out")
        for upper, lower in ((1.0, 0.0), (0.0, 1.0)):
            pair = independent.gaussian_mixtures(upper=sums(upper), lower=sums(lower), z=noise, cells=1 << 13)
            assert independent.epsilon_of_pairs([pair], rounds, delta=1e-5) <= charged * 1.0005


def cut_rounds(rate: float, population: int, most: int) -> tuple[float, float]:
    """Return (chance that the others alone fill a round, chance that the unit is then in it)."""
    cut = chosen = 0.0
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    for drawn in range(most, population):
        log_choose = math.lgamma(population) - math.lgamma(drawn + 1) - math.lgamma(population - drawn)
        chance = math.exp(log_choose + drawn * log_rate + (population - 1 - drawn) * log_rest)
        cut += chance
        chosen += chance * rate * most / (drawn + 1)
    return cut, chosen / cut
