"""Cohorts: different clients, none of them away, with the probabilities promised."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2

from fedloom.core.data import Population
from fedloom.core.events import (
    GaussianDpEvent,
    PoissonSampledDpEvent,
    SampledWithoutReplacementDpEvent,
    TruncatedPoissonSampledDpEvent,
)
from fedloom.core.ids import ClientId
from fedloom.core.keys import Key
from fedloom.data.generated import Numbered
from fedloom.errors import ComponentError
from fedloom.runtime.cohort import Cohort, by_size, everyone, poisson, truncated_poisson, uniform
from fedloom.testing.fakes import Names

quick = settings(max_examples=60, derandomize=True, database=None, deadline=None)
FALSE_ALARM = 1e-6
"""Chance that a statistical test here would fail for a sampler that is right; keys are fixed, so it never flickers."""

cohorts = st.one_of(
    st.just(everyone()),
    st.integers(1, 40).map(uniform),
    st.integers(1, 40).map(by_size),
    st.builds(truncated_poisson, st.floats(0.01, 1), st.integers(1, 40)),
    st.floats(0.01, 1).map(poisson),
)


def of(clients: int) -> Population:
    return Numbered(clients=clients, rows=5)


def held(*sizes: int) -> Population:
    return Names(tuple(ClientId(f"{number:04d}") for number in range(len(sizes))), sizes)


@quick
@given(cohorts, st.integers(0, 2**32), st.integers(1, 60), st.data())
def test_a_cohort_is_ascending_distinct_and_present(cohort: Cohort, seed: int, population: int, data: Any) -> None:
    away = np.array(sorted(data.draw(st.sets(st.integers(0, population - 1)))), dtype=np.int64)
    key = Key.from_seed(seed)
    for gone in (None, away):
        drawn = cohort.draw(key, of(population), gone)
        assert drawn.tolist() == sorted(set(drawn.tolist()))
        assert all(0 <= index < population for index in drawn.tolist())
        assert not set(drawn.tolist()) & set(() if gone is None else gone.tolist())
        assert drawn.tolist() == cohort.draw(key, of(population), gone).tolist(), "the same key draws the same cohort"
    assert cohort.draw(key, of(population), away[:0]).tolist() == cohort.draw(key, of(population), None).tolist()


@quick
@given(st.integers(1, 30), st.integers(0, 2**32), st.integers(1, 60), st.data())
def test_uniform_takes_its_size_or_all_that_are_present(size: int, seed: int, population: int, data: Any) -> None:
    away = np.array(sorted(data.draw(st.sets(st.integers(0, population - 1)))), dtype=np.int64)
    assert len(uniform(size).draw(Key.from_seed(seed), of(population), away)) == min(size, population - len(away))


def test_uniform_takes_every_client_and_every_pair_equally_often() -> None:
    draws, population, size = 6_000, 6, 3
    counts = np.zeros((population, population))
    for number in range(draws):
        drawn = uniform(size).draw(Key.from_seed(1).child(number), of(population), None)
        counts[np.ix_(drawn, drawn)] += 1
    pairs = counts[np.triu_indices(population, 1)]
    expected = draws * size * (size - 1) / (population * (population - 1))
    assert chi2.sf(((pairs - expected) ** 2 / expected).sum(), len(pairs) - 1) > FALSE_ALARM
    assert binom.sf(np.abs(counts.diagonal() - draws / 2).max() + draws / 2 - 1, draws, 0.5) * 12 > FALSE_ALARM


@quick
@given(st.integers(1, 9), st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(0, 2**32), st.data())
def test_by_size_takes_its_size_or_all_present_that_have_rows(
    size: int, sizes: list[int], seed: int, data: Any
) -> None:
    away = np.array(sorted(data.draw(st.sets(st.integers(0, len(sizes) - 1)))), dtype=np.int64)
    able = {index for index, rows in enumerate(sizes) if rows} - set(away.tolist())
    drawn = set(by_size(size).draw(Key.from_seed(seed), held(*sizes), away).tolist())
    assert len(drawn) == min(size, len(able)) and drawn <= able


def test_by_size_draws_one_after_the_other_by_their_shares_of_what_is_left() -> None:
    """Every pair of four clients comes as often as successive draws without replacement say."""
    sizes, draws = (10, 20, 30, 40), 6_000
    counts = np.zeros((4, 4))
    for number in range(draws):
        one, other = by_size(2).draw(Key.from_seed(4).child(number), held(*sizes), None).tolist()
        counts[one, other] += 1
    p = np.array(sizes) / sum(sizes)
    chance = np.array([[p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for j in range(4)] for i in range(4)])
    pairs = np.triu_indices(4, 1)
    expected = draws * chance[pairs]
    assert abs(expected.sum() - draws) < 1e-6
    assert chi2.sf(((counts[pairs] - expected) ** 2 / expected).sum(), 5) > FALSE_ALARM


def test_by_size_keeps_its_draw_when_others_go_away() -> None:
    """Who is away takes nobody else's place: of those that stay, the ones drawn before are drawn again."""
    population, key = held(*range(1, 200)), Key.from_seed(9)
    before = set(by_size(20).draw(key, population, None).tolist())
    away = np.array(sorted(before)[:5])
    assert set(by_size(20).draw(key, population, away).tolist()) >= before - set(away.tolist())


@pytest.mark.parametrize("away", [None, np.arange(0, 200_000, 2)])
@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5])
def test_the_size_of_a_poisson_cohort_is_binomial(rate: float, away: Any) -> None:
    present = 200_000 if away is None else 100_000
    sizes = [len(poisson(rate).draw(Key.from_seed(seed), of(200_000), away)) for seed in range(5)]
    low, high = binom.ppf([FALSE_ALARM / 60, 1 - FALSE_ALARM / 60], 5 * present, rate)
    assert low <= sum(sizes) <= high
    assert len(set(sizes)) > 1


def test_poisson_clients_join_independently_of_each_other() -> None:
    draws, rate = 4_000, 0.3
    joined = np.zeros((draws, 5))
    for number in range(draws):
        joined[number, poisson(rate).draw(Key.from_seed(2).child(number), of(5), None)] = 1
    both = (joined.T @ joined)[np.triu_indices(5, 1)]
    low, high = binom.ppf([FALSE_ALARM / 20, 1 - FALSE_ALARM / 20], draws, rate**2)
    assert ((low <= both) & (both <= high)).all()


@pytest.mark.parametrize("cohort", [uniform(1000), by_size(1000), poisson(0.001)], ids=lambda cohort: cohort.name)
@pytest.mark.parametrize("gone", [0, 10_000])
def test_a_draw_from_a_million_stays_below_sixteen_bytes_a_client(cohort: Cohort, gone: int) -> None:
    away = np.arange(gone) if gone else None
    tracemalloc.start()
    drawn = cohort.draw(Key.from_seed(3), of(1_000_000), away)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (1_000_000 if cohort.name == "uniform" else 16_000_000)
    assert 800 <= len(drawn) <= 1200


def test_expected_sizes_and_events() -> None:
    assert (everyone().expected(7), uniform(3).expected(7), uniform(9).expected(7), poisson(0.5).expected(7)) == (
        7,
        3,
        7,
        3.5,
    )
    event = GaussianDpEvent(1.0)
    assert everyone().event(event, 9) == event
    assert poisson(0.5).event(event, 9) == PoissonSampledDpEvent(0.5, event)
    assert uniform(3).event(event, 9) == SampledWithoutReplacementDpEvent(9, 3, event)
    assert uniform(3).event(event, 2) == SampledWithoutReplacementDpEvent(2, 2, event)
    assert truncated_poisson(0.5, 4).event(event, 9) == TruncatedPoissonSampledDpEvent(0.5, 9, 4, event)
    with pytest.raises(ComponentError, match="tell of the rows"):
        by_size(3).event(event, 9)


def test_a_truncated_cohort_is_never_larger_and_keeps_each_drawn_client_alike() -> None:
    """Every client is drawn and 30 of 40 are kept: each is kept with the chance 3/4."""
    kept = np.zeros(40, np.int64)
    draws = 2000
    for seed in range(draws):
        drawn = truncated_poisson(1.0, 30).draw(Key.from_seed(seed), of(40), None)
        assert len(drawn) == 30
        kept[drawn] += 1
    distance = float((((kept - 0.75 * draws) ** 2) / (0.75 * 0.25 * draws)).sum()) * 39 / 40
    assert distance < chi2.ppf(1 - FALSE_ALARM, 39)


@pytest.mark.parametrize(
    "make",
    [lambda: uniform(0), lambda: by_size(0), lambda: poisson(0.0), lambda: poisson(1.5), lambda: poisson(float("nan"))],
)
def test_arguments_outside_their_range_are_refused(make: Any) -> None:
    with pytest.raises(ComponentError):
        make()
